"""The pictures of a data set as files of this machine: the last step before anybody opens one."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features, Image, LargeList, List, Value, config
from datasets.fingerprint import generate_random_fingerprint
from huggingface_hub import constants
from numpy.typing import NDArray

from .downloads import DownloadError, fetch, fetch_all
from .labels import SparseVector
from .options import ReadOptions
from .paths import Outside, is_address, path_problem
from .pictures import PictureFeature


def local_pictures(images: Dataset, keep: NDArray, options: ReadOptions) -> tuple[Dataset, dict[int, str]]:
    """The images with a file of this machine for each path, and for each row that has none what is wrong.

    Addresses that the user allowed are fetched. A relative path is below the folder of the data.

    Args:
        images: N rows with a column `image`.
        keep: (N,) whether a row is wanted.
        options: how the data are read.
    """
    column = images.select_columns("image").with_format("arrow")[:]["image"]
    paths = pc.struct_field(column, "path").to_pylist()
    without_bytes = pc.is_null(pc.struct_field(column, "bytes")).to_numpy()
    wanted = {row: paths[row] for row in (keep & without_bytes).nonzero()[0].tolist() if paths[row]}
    addresses, changed, problems = _sort(wanted, options)
    for row, found in _each(addresses, fetch_all(addresses.values())):
        if isinstance(found, DownloadError):
            problems[row] = str(found)
        else:
            changed[row] = found
    if not changed:
        return images, problems
    for row, path in changed.items():
        paths[row] = path
    chunks, start = [], 0
    for chunk in column.chunks:
        files = pa.array(paths[start : start + len(chunk)], pa.string())
        chunks.append(pa.StructArray.from_arrays([pc.struct_field(chunk, "bytes"), files], ["bytes", "path"]))
        start += len(chunk)
    return with_column(images, "image", pa.chunked_array(chunks), images.features["image"]), problems


def stream_pictures(images: Sequence[dict | None], options: ReadOptions) -> tuple[list[dict | None], dict[int, str]]:
    """The same of a few rows of a stream; what is fetched stays in memory."""
    wanted = {row: image["path"] for row, image in enumerate(images) if image and image["bytes"] is None}
    addresses, changed, problems = _sort({row: path for row, path in wanted.items() if path}, options)
    rows = list(images)
    for row, path in changed.items():
        rows[row] = {"path": path, "bytes": None}
    for row, found in _each(addresses, fetch_all(addresses.values(), fetch)):
        if isinstance(found, DownloadError):
            problems[row] = str(found)
        else:
            rows[row] = {"path": addresses[row], "bytes": found}
    return rows, problems


def _sort(paths: dict[int, str], options: ReadOptions) -> tuple[dict[int, str], dict[int, str], dict[int, str]]:
    """Of the paths of rows those to be fetched, those that become others, and what is wrong with the rest."""
    addresses, changed, problems = {}, {}, {}
    of_hub = Outside([config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE]) if options.repo else None
    for row, path in paths.items():
        if is_address(path):
            if problem := path_problem(path, options.allow_urls, options.repo):
                problems[row] = problem
            else:
                addresses[row] = path
        elif of_hub is not None and of_hub(os.path.abspath(path)):
            problems[row] = "a dataset on the Hub cannot name a file of this machine"
        elif options.folder is not None and not os.path.isabs(path):
            changed[row] = os.path.join(os.path.abspath(options.folder), path)
    return addresses, changed, problems


def _each(addresses: dict[int, str], found: dict[str, Any]) -> list[tuple[int, Any]]:
    return [(row, found[address]) for row, address in addresses.items()]


def say_outside(files: Sequence[str], options: ReadOptions) -> None:
    """Note, once, that pictures are outside the folder of the data."""
    if options.folder is None or "outside" in options.used:
        return
    named = [] if options.image_dir is None else [options.folder / options.image_dir, options.image_dir]
    outside = Outside([options.folder, *named, os.path.join(config.HF_DATASETS_CACHE, "gkgnet_hf_pictures")])
    first = next((file for file in files if file and os.path.isabs(file) and outside(file)), None)
    if first is not None:
        options.used.add("outside")
        options.assume(
            f"warning: pictures outside {options.folder} are read, such as {first}: absolute paths, .. or links in the "
            "data lead there"
        )


def with_column(dataset: Dataset, name: str, column: pa.Array | pa.ChunkedArray, feature: Any) -> Dataset:
    """The dataset with another content of a column, read into memory."""
    table = dataset.with_format("arrow")[:]
    table = table.set_column(table.column_names.index(name), name, column).replace_schema_metadata(None)
    features = Features({**dataset.features, name: feature})
    return Dataset(table, info=DatasetInfo(features=features), fingerprint=generate_random_fingerprint())


def with_safe_features(dataset: Dataset) -> Dataset:
    """The dataset with a `safe_feature` for every column but `image`, so that reading a row is harmless."""
    for name, feature in dataset.features.items():
        if name != "image" and (safe := safe_feature(feature)) is not feature:
            dataset = dataset.cast_column(name, safe)
    return dataset


def safe_feature(feature: Any) -> Any:
    """A feature that opens files alone: pictures by `PictureFeature`, sounds, videos and others as they are stored.

    It is the same object if nothing is to be changed.
    """
    if isinstance(feature, dict):
        inner = {name: safe_feature(part) for name, part in feature.items()}
        return feature if all(inner[name] is part for name, part in feature.items()) else inner
    if isinstance(feature, (List, LargeList)):
        part = safe_feature(feature.feature)
        return feature if part is feature.feature else replace(feature, feature=part)
    if isinstance(feature, Image):
        return feature if isinstance(feature, PictureFeature) else PictureFeature(feature.mode, feature.decode)
    if isinstance(feature, SparseVector):
        return {"ids": List(Value("int32")), "values": List(Value("float32"))}
    return replace(feature, decode=False) if getattr(feature, "decode", False) else feature
