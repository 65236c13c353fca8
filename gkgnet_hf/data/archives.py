"""Zip files of pictures: unpacked once, and then read as the folder that they hold."""

import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import IO, TypeAlias

from datasets import config

from ..files import removed_on_error

ARCHIVES = (".zip", ".tar.gz", ".tgz")
MOST_WRITTEN = 1 << 30  # bytes that any archive may hold
MOST_GROWTH = 100  # bytes in its files for each of its own, where that is more
MOST_READ = 1 << 24
A_DAY = 86_400.0  # seconds
# What zipfile and tarfile raise for broken archives; RuntimeError for encrypted ones.
BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, ValueError, RuntimeError, IndexError, KeyError, TypeError, AttributeError),
)
Member: TypeAlias = tuple[str, int, Callable[[], IO[bytes]]]


def is_archive(path: Path) -> bool:
    """Whether a file is an archive that is unpacked here; a bare .tar is WebDataset, which datasets reads."""
    return path.name.lower().endswith(ARCHIVES)


def unpacked(path: Path) -> Path:
    """The folder with what an archive holds, or all archives of a folder that holds nothing else; else the path itself.

    Several archives, or one that is named after a split, are a folder each. The folders are in the cache of datasets,
    and made anew when an archive changes. Links in an archive are passed over.

    Raises:
        ValueError: for an archive that is broken, that names a file outside its folder, or that grows a hundredfold
            and beyond 1 GB.
    """
    if path.is_file():
        archives = [path] if is_archive(path) else []
    else:
        inside = [
            p for p in sorted(path.iterdir()) if not p.name.startswith(".") and not p.name.lower().startswith("readme")
        ]
        archives = inside if inside and all(p.is_file() and is_archive(p) for p in inside) else []
    if not archives:
        return path
    stamps = [f"{archive.absolute()} {archive.stat().st_size} {archive.stat().st_mtime_ns}" for archive in archives]
    name = blake2b("\n".join(stamps).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    folder = Path(config.HF_DATASETS_CACHE) / "gkgnet_hf_unpacked" / name
    if not folder.is_dir():
        for left in folder.parent.glob("*-*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > A_DAY:
                shutil.rmtree(left, ignore_errors=True)
        unfinished = folder.with_name(f"{name}-{os.getpid()}")
        with removed_on_error(unfinished):
            for archive in archives:
                try:
                    _unpack(archive, unfinished / archive.name.split(".")[0])
                except BROKEN as error:
                    raise ValueError(f"{archive} cannot be unpacked: {error or type(error).__name__}") from error
        try:
            unfinished.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Write the regular files of an archive into a folder, and nothing outside it: no link, no device."""
    folder.mkdir(parents=True)
    room = max(MOST_WRITTEN, MOST_GROWTH * archive.stat().st_size)
    free = shutil.disk_usage(folder).free
    with _members(archive) as members:
        for name, size, content in members:
            room, free = room - size, free - size
            if room < 0:
                raise ValueError("it grows to more than a hundred times its size; unpack it yourself if you trust it")
            if free < 0:
                raise ValueError(f"the disk of {folder.parent} is too small for what it holds")
            target = folder.joinpath(*_parts(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with content() as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _parts(name: str) -> list[str]:
    """The folders and the name of a member; one that leads out of the archive's folder is an error."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]  # \ is of Windows
    if name.startswith(("/", "\\")) or ".." in parts or not parts or os.path.splitdrive(name)[0]:
        raise ValueError(f"its member {name!r} is not below its folder")
    return parts


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    """Name, size and opener of each regular file."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield (
                (member.filename, member.file_size, partial(opened.open, member))
                for member in opened.infolist()
                if not member.is_dir() and not stat.S_ISLNK(member.external_attr >> 16)
            )
    else:
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=_Bounded(unzipped), mode="r:") as opened:
            yield (
                (member.name, member.size, partial(opened.extractfile, member))  # type: ignore[misc]
                for member in opened
                if member.isreg()
            )


class _Bounded(io.RawIOBase):
    """A stream that is never asked for more than 16 MB at once, as the header of a damaged tar file may ask for."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_READ:
            raise tarfile.ReadError(f"a header says that it has {size:,} bytes")
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()
