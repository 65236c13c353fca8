"""Zip files of pictures: unpacked once, and then read as the folder that they hold."""

import os
import shutil
import tarfile
import zipfile
from hashlib import blake2b
from pathlib import Path

from datasets import config

ARCHIVES = (".zip", ".tar.gz", ".tgz")


def is_archive(path: Path) -> bool:
    """Whether a file is an archive that is unpacked here; a bare .tar is WebDataset, which datasets reads."""
    return path.name.lower().endswith(ARCHIVES)


def unpacked(path: Path) -> Path:
    """The folder with what an archive holds, or all archives of a folder that holds nothing else; else the path itself.

    Several archives, or one that is named after a split, are a folder each. The folders are in the cache of datasets,
    and made anew when an archive changes.

    Raises:
        ValueError: for an archive that is broken.
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
    name = blake2b("\n".join(stamps).encode(), digest_size=12).hexdigest()
    folder = Path(config.HF_DATASETS_CACHE) / "gkgnet_hf_unpacked" / name
    if not folder.is_dir():
        partial = folder.with_name(f"{name}-{os.getpid()}")
        for archive in archives:
            stem = archive.name.split(".")[0]
            try:
                _unpack(archive, partial / stem)
            except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError) as error:
                shutil.rmtree(partial, ignore_errors=True)
                raise ValueError(f"{archive} cannot be unpacked: {error}") from error
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                member.filename = member.filename.replace("\\", "/")  # that some programs on Windows write
                opened.extract(member, folder)  # which keeps every file inside the folder
    else:
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
