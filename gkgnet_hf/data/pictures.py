"""Picture files: which suffixes they have, how one is opened, and which cannot be used and why."""

import importlib.util
import logging
import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from pathlib import PurePath
from typing import Any, BinaryIO, TypeAlias

import datasets
import numpy as np
from huggingface_hub import constants
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, features
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from ..modeling.image_processing_gkgnet import num_channels_of, to_eight_bits, to_rgb
from ..threads import usable_cores
from .paths import MISSING, PathError, read_path
from .words import shown

logger = logging.getLogger(__name__)

PictureFile: TypeAlias = str | os.PathLike[str] | bytes | Mapping[str, Any]

# In the order in which they are tried; TGA files have no signature. No format that another program decodes (EPS, WMF).
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000"),
    *("PPM", "ICO", "QOI", "DDS", "PCX", "SGI", "TGA"),
)
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
AVIF_SUFFIXES = (".avif", ".avifs")
RAW_SUFFIXES = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq"),
    *(".k25", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf"),
    *(".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
_OWN_AVIF = "avif" in features.modules and features.check("avif")  # the module is new in Pillow 11.3
HAS_AVIF = bool(_OWN_AVIF) or importlib.util.find_spec("pillow_avif") is not None


def _readable_suffixes() -> Iterator[str]:
    Image.init()
    always = {*FORMATS, "MPO"} - {"HEIF", "AVIF"}  # MPO: two JPEG pictures in a file, of which the first is used
    yield from (suffix for suffix, kind in Image.EXTENSION.items() if kind in always)
    yield from HEIF_SUFFIXES if HAS_HEIF else ()
    yield from AVIF_SUFFIXES if HAS_AVIF else ()


# Suffixes in lower case, with their dot; each in one of the three.
READABLE_SUFFIXES = frozenset(_readable_suffixes())
PLUGIN_SUFFIXES = {  # pictures that are read if this package is installed, which it is not
    **({} if HAS_HEIF else dict.fromkeys(HEIF_SUFFIXES, "pillow-heif")),
    **({} if HAS_AVIF else dict.fromkeys(AVIF_SUFFIXES, "pillow-avif-plugin")),
}
UNREADABLE_SUFFIXES = RAW_SUFFIXES | {
    *(".ai", ".cdr", ".dcm", ".emf", ".eps", ".exr", ".hdr", ".jxl", ".jxr", ".kra"),
    *(".nii", ".pdf", ".ps", ".psb", ".psd", ".svg", ".svgz", ".wdp", ".wmf", ".xcf"),
}
SIGNATURES = {  # beginnings of files, in lower case, that are no pictures that can be read
    b"version https://git-lfs": "a Git LFS pointer (run git lfs pull)",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG drawing",
    b"<?xml": "XML or an SVG drawing",
    b"%pdf": "a PDF document",
    b"%!ps": "a PostScript document",
    b"\xc5\xd0\xd3\xc6": "a PostScript document",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"8bps": "a Photoshop document",
    b"pk\x03\x04": "a ZIP archive",
}
LARGE = 32_000_000  # pixels of a picture that is shrunk before anything else is done with it
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LONGEST = 1000  # times the shorter side: enlarged to a network's size, a thread of pixels would fill the memory
MOST_SCANS = 200  # of a progressive JPEG file, each of which goes over the whole picture; encoders write about ten
SHRUNK = ("L", "LA", "RGB", "RGBA", "CMYK")  # modes that Pillow takes the mean of
CHUNK = 1000  # files that are looked up, and contents that are in memory, at a time


class PictureError(ValueError):
    """A picture cannot be used. `problem` says why in a few words; `str()` names the file too, where it has a name."""

    def __init__(self, problem: str, file: str = "") -> None:
        super().__init__(f"{file}: {problem}" if file else problem)
        self.problem = problem


class PictureFeature(datasets.Image):
    """The feature `Image` of datasets, which opens files alone and decodes the formats that need no other program.

    What is read is the same as with `Image`, and columns of both go together.

    >>> PictureFeature() == datasets.Image()
    True
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, datasets.Image) and (self.mode, self.decode) == (other.mode, other.decode)

    __hash__ = None  # type: ignore[assignment]

    def decode_example(self, value: Any, token_per_repo_id: object = None) -> Image.Image:
        """The picture, upright, in its own mode or that of the feature.

        Raises:
            RuntimeError: with `decode=False`, as `Image`.
            FileNotFoundError, PictureError: as `open_picture`.
        """
        if not self.decode:
            raise RuntimeError("Decoding is disabled for this feature: use PictureFeature() instead")
        if isinstance(value, Image.Image):
            return value
        with _errors_named(value), _opened(value) as stream:
            start = stream.read(256)
            image: Image.Image | None = _open_with_pillow(stream, start)
            if image is None:
                raise PictureError(_what_it_is(start) if start else "the file is empty")
            _check_size(image.width * image.height, *image.size)
            image.load()
            if image.getexif().get(Image.ExifTags.Base.Orientation) is not None:
                image = ImageOps.exif_transpose(image)  # which forgets the format
            return image.convert(self.mode) if self.mode and self.mode != image.mode else image


def open_picture(file: PictureFile, size: int | None = None, num_channels: int = 3) -> Image.Image | NDArray[np.number]:
    """One picture, decoded and upright.

    Of a TIFF file with several pages, and of an animation, this is the first picture. In RGB and grey images what is
    transparent becomes white, and values of 16 and 32 bits are scaled to 8 as `to_eight_bits` says.

    Args:
        file: a path on this machine, the content of the file, or a row of an `Image(decode=False)` column of datasets:
            a dict of `path` and `bytes`. Addresses are not fetched.
        size: pixels that the shorter side must have at least. A JPEG file that is far larger is shrunk while it is
            decoded, to no less than twice as many; of other formats pictures of more than 32 million pixels are, after
            they are decoded. Default: whole.
        num_channels: 3 gives an RGB image, 1 a grey one (`L`). Any other number gives an array (H, W, num_channels)
            of the file's own numbers, not scaled: bands are measurements, and one scale must hold for all files. The
            file has this many channels or, if it is a TIFF file, may have this many pages of one channel.

    Raises:
        FileNotFoundError: if there is no such file.
        PictureError: if it is an address, no picture, broken or too large, or has another number of channels.

    >>> content = BytesIO()
    >>> Image.new("RGBA", (2, 1)).save(content, "png")
    >>> open_picture(content.getvalue()).getpixel((0, 0))
    (255, 255, 255)
    """
    with _errors_named(file), _opened(file) as stream:
        return _read_header(stream, size, num_channels).decode()


def picture_reader(processor: BaseImageProcessor) -> Callable[[PictureFile], Image.Image | NDArray[np.number]]:
    """`open_picture` for what an image processor takes: its number of channels, and enough pixels for its size.

    Crops of a quarter of a picture still have the processor's size, however large the picture is.

    >>> from transformers import ViTImageProcessor
    >>> content = BytesIO()
    >>> Image.new("RGB", (4000, 3000)).save(content, "jpeg")
    >>> picture_reader(ViTImageProcessor(size={"height": 224, "width": 224}))(content.getvalue()).size
    (2000, 1500)
    """
    size: Any = getattr(processor, "size", None) or {}
    sides = [side for side in dict(size).values() if side]
    return partial(open_picture, size=2 * max(sides) if sides else None, num_channels=num_channels_of(processor))


def check_pictures(
    files: Iterable[PictureFile],
    num_channels: int = 3,
    num_workers: int | None = None,
    use_cache: bool = True,
    total: int | None = None,
) -> dict[int, str]:
    """Which pictures cannot be used, and why.

    Every file is read and decoded to its end, JPEG files at an eighth of their size. Files that were found good before,
    and have the same size and time of change, are not read again. A warning names the files of which only the first
    page is used.

    Args:
        files: as for `open_picture`. An iterator may make them: a thousand are in memory.
        num_channels: as for `open_picture`.
        num_workers: threads that decode; default, one per core. All of them together hold no more pixels than one
            picture may have.
        use_cache: remember good files, in the folder `gkgnet_hf` of the Hugging Face cache (`HF_HOME`).
        total: how many files an iterator makes, for the progress bar.

    Returns:
        For each file that cannot be used its place in `files`, counted from 0, and the reason.

    Example:

        for place, problem in check_pictures(files).items():
            print(files[place], problem)
    """
    problems: dict[int, str] = {}
    paged: list[str] = []
    check = partial(_check, budget=_PixelBudget(), num_channels=num_channels)
    if total is None and isinstance(files, Sized):
        total = len(files)
    progress = tqdm(total=total, desc="Checking pictures", unit="picture", delay=3)
    iterator, start = iter(files), 0
    with _GoodFiles(use_cache) as good, progress, ThreadPoolExecutor(num_workers or usable_cores()) as threads:
        while chunk := list(islice(iterator, CHUNK)):
            keys = [_cache_key(file, num_channels) if use_cache else None for file in chunk]
            known = good.known([key for key in keys if key])
            unknown = [place for place, key in enumerate(keys) if key not in known]
            progress.update(len(chunk) - len(unknown))
            found = []
            for place, (problem, pages) in zip(unknown, threads.map(check, [chunk[p] for p in unknown]), strict=True):
                key = keys[place]
                if problem:
                    problems[start + place] = problem
                elif pages > 1:
                    paged.append(_name(chunk[place]) or f"picture {start + place}")
                elif key:
                    found.append(key)
                progress.update()
            good.add(found)
            start += len(chunk)
    if paged:
        count = "1 file has" if len(paged) == 1 else f"{len(paged):,} files have"
        listed = ", ".join(paged[:3]) + (", …" if len(paged) > 3 else "")
        logger.warning("%s several pages, of which the first is used: %s", count, shown(listed))
    return problems


def why_no_picture(file: PictureFile) -> str | None:
    """What a file is if its beginning is not that of a picture, None if it is one; the rest may still be damaged."""
    try:
        with _errors_named(file), _opened(file) as stream:
            start = stream.read(256)
            is_picture = start.startswith(TIFF) or (start and _open_with_pillow(stream, start) is not None)
            return None if is_picture else _what_it_is(start) if start else "the file is empty"
    except FileNotFoundError:
        return MISSING
    except PictureError as error:
        return error.problem


def _check(file: PictureFile, budget: "_PixelBudget", num_channels: int) -> tuple[str | None, int]:
    """Why a picture cannot be used, None if it can, and the number of its pages."""
    try:
        with _errors_named(file), _opened(file) as stream:
            picture = _read_header(stream, 0, num_channels)
            budget.spend(picture.num_pixels, lambda: _decode_and_forget(picture))
            return None, picture.num_pages
    except FileNotFoundError:
        return MISSING, 1
    except PictureError as error:
        return error.problem, 1


def _decode_and_forget(picture: "_PillowPicture | _TiffArray") -> None:
    decoded = picture.decode(convert=False)
    if isinstance(decoded, Image.Image):
        decoded.close()


class _PixelBudget:
    """Pixels that may be decoded at once by all threads: as many as one picture may have, and any one by itself."""

    def __init__(self) -> None:
        self.limit = _max_pixels()
        self.used = 0.0
        self.changed = threading.Condition()
        # The C library may keep what a thread has freed for that thread, so large pictures share one.
        self.large = ThreadPoolExecutor(1)

    def spend(self, num_pixels: int, decode: Callable[[], None]) -> None:
        """Call `decode`, which holds this many pixels until it returns, when there is room for them."""
        with self.changed:
            self.changed.wait_for(lambda: self.used == 0 or self.used + num_pixels <= self.limit)
            self.used += num_pixels
        try:
            if num_pixels > self.limit / 8:
                self.large.submit(decode).result()
            else:
                decode()
        finally:
            with self.changed:
                self.used -= num_pixels
                self.changed.notify_all()


class _GoodFiles:
    """Keys of files that were found good, in an SQLite file that processes share; empty where it cannot be used."""

    def __init__(self, use: bool) -> None:
        self.database: sqlite3.Connection | None = None
        if use:
            path = os.path.join(constants.HF_HOME, "gkgnet_hf", "pictures.sqlite")
            with suppress(OSError, sqlite3.Error):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                self.database = sqlite3.connect(path)
            self._execute("CREATE TABLE IF NOT EXISTS good (key BLOB PRIMARY KEY) WITHOUT ROWID")

    def __enter__(self) -> "_GoodFiles":
        return self

    def __exit__(self, *_: object) -> None:
        if self.database is not None:
            self.database.close()

    def known(self, keys: Sequence[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        for first in range(0, len(keys), 500):  # SQLite's limit for parameters was 999
            part = keys[first : first + 500]
            rows = self._execute(f"SELECT key FROM good WHERE key IN ({','.join('?' * len(part))})", part)
            found.update(key for (key,) in rows)
        return found

    def add(self, keys: Sequence[bytes]) -> None:
        for first in range(0, len(keys), 500):
            part = keys[first : first + 500]
            self._execute(f"INSERT OR IGNORE INTO good VALUES {','.join(['(?)'] * len(part))}", part)

    def _execute(self, statement: str, values: Sequence[bytes] = ()) -> list[tuple[bytes]]:
        if self.database is None:
            return []
        try:
            with self.database:
                return self.database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            logger.debug("Good pictures are not remembered: %s", error)
            self.database.close()
            self.database = None
            return []


def _cache_key(file: PictureFile, num_channels: int) -> bytes | None:
    """What a file that has not changed is known by; None for what is no local file."""
    path = _path_or_bytes(file)
    if isinstance(path, bytes):
        return None
    try:
        path = read_path(path)
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    seen = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{num_channels}"
    return blake2b(seen.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@contextmanager
def _opened(file: PictureFile) -> Iterator[BinaryIO]:
    """The bytes of a picture."""
    path = _path_or_bytes(file)
    if isinstance(path, bytes):
        yield BytesIO(path)
        return
    if PurePath(path).suffix.lower() in RAW_SUFFIXES:  # many are TIFF files with a tiny picture in front
        raise PictureError("raw camera files are not read; export it as JPEG")
    with open(read_path(path), "rb") as stream:
        yield stream


@contextmanager
def _errors_named(file: PictureFile) -> Iterator[None]:
    """Make a PictureError of whatever goes wrong, except for a missing file."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {_name(file)}") from None
    except (PathError, PictureError) as error:
        raise PictureError(error.problem, _name(file)) from error.__cause__
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, IndexError, …
        raise PictureError(_problem(error), _name(file)) from error


def _problem(error: Exception) -> str:
    said = str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {_max_pixels() / 1e6:,.0f} million pixels; save it smaller"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if "truncated" in said.lower() or isinstance(error, EOFError):
        return "the file is cut off"
    if isinstance(error, PermissionError):
        return "it may not be read: permission denied"
    return f"the file is damaged: {said or type(error).__name__}"


def _path_or_bytes(file: PictureFile) -> str | bytes:
    if isinstance(file, Mapping):
        file = file["path"] or "" if file["bytes"] is None else file["bytes"]
    return file if isinstance(file, bytes) else os.fspath(file)


def _name(file: PictureFile) -> str:
    if isinstance(file, Mapping):
        return file["path"] or ""
    return "" if isinstance(file, bytes) else os.fspath(file)


def _max_pixels() -> float:
    """The pixels that a picture may have once decoded: where Pillow raises an error. It can be set in Pillow."""
    return float("inf") if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


@cache
def _register_plugins() -> None:
    Image.init()
    if HAS_HEIF:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    if HAS_AVIF and not features.check("avif"):
        import pillow_avif  # noqa: F401, registers itself
    # It logs an error for each TIFF file whose channels it cannot decode, and raises one as well.
    logging.getLogger(TiffImagePlugin.__name__).setLevel(logging.CRITICAL)


def _read_header(stream: BinaryIO, size: int | None, num_channels: int) -> "_PillowPicture | _TiffArray":
    """A picture that is not decoded yet."""
    start = stream.read(256)
    if not start:
        raise PictureError("the file is empty")
    is_tiff = start.startswith(TIFF)
    if is_tiff and num_channels not in (1, 3):
        return _TiffArray(stream, num_channels)
    image = _open_with_pillow(stream, start)
    if image is not None:
        return _PillowPicture(image, stream, size, num_channels)
    if is_tiff:
        return _TiffArray(stream, num_channels)
    raise PictureError(_what_it_is(start))


def _open_with_pillow(stream: BinaryIO, start: bytes) -> ImageFile.ImageFile | None:
    """As `Image.open`, which refuses and warns of large pictures before they can be shrunk."""
    _register_plugins()
    for kind in FORMATS:
        if kind not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(start[:16]) is True:
            stream.seek(0)
            with suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(stream, "")
    return None


def _what_it_is(start: bytes) -> str:
    """What a file is that Pillow does not know."""
    if start[4:8] == b"ftyp":
        if start[8:12] in (b"avif", b"avis"):
            return "it is an AVIF picture; to read it: pip install pillow-avif-plugin"
        if start[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            return "it is a HEIC picture; to read it: pip install pillow-heif"
        return "it is a video or a picture of an unknown kind"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, kind in SIGNATURES.items():
        if text.startswith(beginning):
            return f"it is {kind}, not a picture that can be read"
    return "it is not a picture of a known format"


def _check_size(num_pixels: int, width: int, height: int) -> None:
    if num_pixels > _max_pixels():
        found, limit = num_pixels / 1e6, _max_pixels() / 1e6
        raise PictureError(
            f"it has {found:,.0f} million pixels, at most {limit:,.0f} million are read; save it smaller"
        )
    if max(width, height) > LONGEST * min(width, height):
        raise PictureError(f"it is {width:,} by {height:,} pixels, one side more than {LONGEST:,} times the other")


def _wrong_channels(found: int, wanted: int) -> PictureError:
    return PictureError(f"it has {found} channels, and the model takes {wanted}")


class _PillowPicture:
    """A picture that Pillow reads.

    Attributes:
        num_pixels: the pixels that are in memory while it is decoded.
        num_pages: 2 for a TIFF file of several pages.
    """

    def __init__(self, image: ImageFile.ImageFile, stream: BinaryIO, size: int | None, num_channels: int) -> None:
        self.image, self.stream, self.size, self.num_channels = image, stream, size, num_channels
        width, height = image.size
        if size is not None:
            image.draft(None, (max(2 * size, 1), max(2 * size, 1)))
        # A progressive JPEG file is decoded as a whole, whatever it is shrunk to.
        is_progressive = image.info.get("progressive")
        self.num_pixels = width * height if is_progressive else image.width * image.height
        _check_size(self.num_pixels, width, height)
        if is_progressive and (scans := _count_scans(stream)) > MOST_SCANS:
            raise PictureError(f"it is stored in {scans:,} scans, at most {MOST_SCANS} are read; save it again")
        found, self.num_pages = len(image.getbands()), 1
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            found = image.tag_v2.get(277, 1)  # SamplesPerPixel: of more than 4, Pillow would use the first 3
            self.num_pages = 2 if image.is_animated else 1  # Pillow takes an hour to count a million
        if found > 4 or (num_channels not in (1, 3) and found != num_channels):
            raise _wrong_channels(found, num_channels)
        if image.mode == "LAB":
            raise PictureError("its colours are LAB; save it as RGB")

    def decode(self, convert: bool = True) -> Image.Image | NDArray[np.number]:
        """The picture; without `convert` just any error that there is."""
        image = self.image
        is_cut = image.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in image.tile)
        image.load()
        if is_cut and 0 < max(high for _, high in image.getextrema()[:3]) < 16:  # type: ignore[misc]
            # Pillow keeps the upper 8 of 16 bits: of 12 bits in 16 hardly anything.
            if not isinstance(image, TiffImagePlugin.TiffImageFile):
                raise PictureError("its values are 12 bits in 16 and would be black; save it with 8 bits a channel")
            return _TiffArray(self.stream, self.num_channels).decode()
        if not convert and image.mode != "F":
            return image
        if self.num_channels not in (1, 3):
            return np.asarray(ImageOps.exif_transpose(image))
        rgb = to_rgb(_shrunk(image, self.size))
        return rgb if self.num_channels == 3 else rgb.convert("L")


def _count_scans(stream: BinaryIO) -> int:
    """How often the start of a scan stands in a JPEG file."""
    place = stream.tell()
    stream.seek(0)
    count = stream.read().count(b"\xff\xda")
    stream.seek(place)
    return count


def _shrunk(image: Image.Image, size: int | None) -> Image.Image:
    """The picture, or if it is large one of fewer pixels whose shorter side still has twice the size."""
    factor = min(image.size) // max(2 * size, 1) if size is not None else 1
    if image.width * image.height <= LARGE or factor < 2 or image.mode not in SHRUNK:
        return image
    small = image.reduce(factor)
    small.info = {key: value for key, value in image.info.items() if key == "transparency"}
    small.getexif()[Image.ExifTags.Base.Orientation] = image.getexif().get(Image.ExifTags.Base.Orientation, 1)
    image.close()
    return small


class _TiffArray:
    """A TIFF file of channels or numbers that Pillow does not read, read by tifffile.

    Attributes:
        num_pixels: as above.
        num_pages: the pages of the file.
    """

    def __init__(self, stream: BinaryIO, num_channels: int) -> None:
        stream.seek(0)
        try:
            import tifffile
        except ImportError:
            raise PictureError("its kind of TIFF is read by the package tifffile: pip install tifffile") from None
        self.file = tifffile.TiffFile(stream)
        self.page, self.num_channels, self.num_pages = self.file.pages.first, num_channels, len(self.file.pages)
        found = self.page.samplesperpixel
        # Some programs write each channel as a page.
        self.channels_are_pages = found == 1 and num_channels not in (1, 3) and num_channels == self.num_pages
        if self.channels_are_pages:
            found, self.num_pages = num_channels, 1
            if any(page.shape != self.page.shape for page in self.file.pages):
                raise PictureError("its pages have different sizes")
        if found > 4 if num_channels in (1, 3) else found != num_channels:
            raise _wrong_channels(found, num_channels)
        self.num_pixels = self.page.imagewidth * self.page.imagelength * found
        _check_size(self.num_pixels, self.page.imagewidth, self.page.imagelength)

    def decode(self, convert: bool = True) -> Image.Image | NDArray[np.number]:
        """The picture."""
        page = self.page
        if self.channels_are_pages:
            values = np.stack([page.asarray() for page in self.file.pages], axis=-1)
        else:
            values = page.asarray()
            values = np.moveaxis(values, 0, -1) if page.axes.startswith("S") else values  # stored band by band
            values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        tag = page.tags.get("Orientation")
        orientation = 1 if tag is None else int(tag.value)
        values = values.swapaxes(0, 1) if orientation >= 5 else values
        values = values[:, ::-1] if orientation in (2, 3, 6, 7) else values
        values = values[::-1] if orientation in (3, 4, 7, 8) else values
        if self.num_channels not in (1, 3):
            return np.ascontiguousarray(values)
        if page.photometric not in (0, 1, 2):  # white is 0, black is 0, RGB
            raise PictureError(f"its colours are not grey or RGB (photometric {int(page.photometric)}); save it as RGB")
        num_colors = 3 if page.photometric == 2 else 1
        colors = to_eight_bits(values[..., :num_colors])
        colors = 255 - colors if page.photometric == 0 else colors
        extra = page.extrasamples[0] if page.extrasamples else 0
        if extra in (1, 2):  # transparency; with 1 the colours are multiplied by it
            opacity = to_eight_bits(values[..., num_colors : num_colors + 1]) / np.float32(255)
            over_white = colors * (1 if extra == 1 else opacity) + 255 * (1 - opacity)
            colors = np.clip(over_white + 0.5, 0, 255).astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(colors.squeeze(-1) if num_colors == 1 else colors))
        return image.convert("RGB" if self.num_channels == 3 else "L")
