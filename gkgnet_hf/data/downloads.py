"""Pictures behind web addresses, fetched once into the cache of datasets when the user asks for them."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from datasets import config
from huggingface_hub import HfFileSystem
from huggingface_hub.utils import get_session
from tqdm.auto import tqdm

MAX_BYTES = 1 << 28  # of one picture
TIMEOUT = 30.0  # seconds without an answer
MAX_SECONDS = 300.0  # for one picture, from a server that sends byte by byte
CONNECTIONS = 16
CHUNK = 1 << 16


class DownloadError(ValueError):
    """A picture could not be fetched; `str()` says why in a few words."""


def fetch_all(addresses: Iterable[str], fetch_one: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """What is behind each address: its file in the cache, fetched if it is not there yet, or a `DownloadError`.

    Args:
        addresses: that `read_path` allows.
        fetch_one: what fetches one, in place of the cache.
    """
    found = list(dict.fromkeys(addresses))
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        results = tqdm(
            threads.map(partial(_result, fetch_one or _cached), found),
            "Fetching pictures",
            len(found),
            unit="picture",
            delay=3,
        )
        return dict(zip(found, results, strict=True))


def fetch(address: str) -> bytes:
    """The content behind an http(s):// or hf:// address.

    Raises:
        DownloadError: if it cannot be fetched, or is larger than 256 MB.
    """
    parts, size, end = [], 0, time.monotonic() + MAX_SECONDS
    try:
        with _opened(address) as chunks:
            for chunk in chunks:
                size += len(chunk)
                if size > MAX_BYTES:
                    raise DownloadError(f"it is larger than {MAX_BYTES >> 20} MB")
                if time.monotonic() > end:
                    raise DownloadError(f"it took more than {MAX_SECONDS:.0f} seconds")
                parts.append(chunk)
    except DownloadError:
        raise
    except Exception as error:  # httpx, the Hub's client and the system each have their own
        raise DownloadError(f"it cannot be fetched: {' '.join(str(error).split()) or type(error).__name__}") from error
    return b"".join(parts)


def _result(fetch_one: Callable[[str], Any], address: str) -> Any:
    try:
        return fetch_one(address)
    except DownloadError as error:
        return error


def _cached(address: str) -> str:
    suffix = Path(address.partition("?")[0]).suffix
    suffix = suffix.lower() if suffix[1:].isalnum() and len(suffix) < 8 else ""
    name = blake2b(address.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest() + suffix
    path = Path(config.HF_DATASETS_CACHE, "gkgnet_hf_pictures", name[:2], name)
    if path.is_file():
        return str(path)
    content = fetch(address)
    unfinished = path.with_name(f"{name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    return str(path)


@contextmanager
def _opened(address: str) -> Iterator[Iterable[bytes]]:
    if address.startswith("hf://"):
        with HfFileSystem().open(address, "rb", block_size=0) as stream:
            yield _chunks(stream)
    else:
        with get_session().stream("GET", address, timeout=TIMEOUT) as response:
            response.raise_for_status()
            yield response.iter_bytes(CHUNK)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk
