"""Files of a data set that are broken, endless or larger than they look: one error, in bounded time and memory."""

import gzip
import io
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from datasets import Dataset, Features, Image, List, Value

from gkgnet_hf.data import MultiLabelSource, archives, load_multilabel_dataset, summarize
from gkgnet_hf.data.checks import find_bad_images
from gkgnet_hf.data.imagefolder import write_imagefolder
from gkgnet_hf.data.readers import tables
from gkgnet_hf.predict import find_images

from ..image_files import draw, file_names

SEED, MUTATIONS = 0, 400
DOCS = (Path(__file__).parents[2] / "docs/data.md").read_text()
EXAMPLES = dict(re.findall(r"^### (.*?)\n\n```text\n(.*?)```", DOCS, flags=re.DOTALL | re.MULTILINE))
VALUES = [
    *(None, [], {}, "", -1, 0, 1e308, float("nan"), 10**30, 2**63, "x" * 10_000, [[[]]], {"a": {}}, True, "../x"),
    *("\u202e", "\ud800", "a\x00b", [1, "a"], ["a", None], "http://x/y.png", 1.5),
]
PIECES = [
    b"\x00",
    b"\xff\xfe",
    b'"',
    b"\n\n",
    b",",
    b"<",
    b"&lol;",
    b"-1",
    b"9" * 5000,
    b"\r",
    b"\x1b[2J",
    b"=cmd|x!A0",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def change(content, rng):
    """A JSON value with another one somewhere in it."""
    if not isinstance(content, (dict, list)) or not content or rng.random() < 0.1:
        return rng.choice(VALUES)
    content = content.copy()
    key = rng.choice([*content] if isinstance(content, dict) else range(len(content)))
    if rng.random() < 0.1:
        del content[key]
    else:
        content[key] = change(content[key], rng)
    return content


def mutate(name, text, rng):
    if name.endswith(".json") and rng.random() < 0.7:
        return json.dumps(change(json.loads(text), rng)).encode()
    if name.endswith(".yaml") and rng.random() < 0.7:
        return yaml.safe_dump(change(yaml.safe_load(text), rng)).encode()
    content = bytearray(text.encode())
    place = rng.randrange(len(content))
    kind = rng.randrange(6)
    if kind == 0:
        content[place] = rng.randrange(256)
    elif kind == 1:
        del content[place:]
    elif kind == 2:
        content[place:place] = rng.choice(PIECES)
    elif kind == 3:
        content *= rng.choice([2, 50])
    elif kind == 4:
        content = bytearray(b"<a>" * 50_000 if name.endswith(".xml") else b"[" * 50_000)
    else:
        words = re.split(r"([,\s:\"]+)", text)
        words[rng.randrange(len(words))] = str(rng.choice(VALUES))
        content = bytearray("".join(words).encode("utf-8", "surrogatepass"))
    return bytes(content)


@pytest.mark.slow
def test_a_changed_file_of_any_format_is_read_or_one_error(tmp_path, capsys):
    rng, counts = random.Random(SEED), Counter()
    for number in range(MUTATIONS):
        kind = [*EXAMPLES][number % len(EXAMPLES)]
        parts = re.split(r"^# (.+)\n", EXAMPLES[kind], flags=re.MULTILINE)[1:]
        files = dict(zip(parts[::2], parts[1::2], strict=True))
        texts = [name for name, text in files.items() if text.strip()]
        changed = rng.choice(texts) if texts else None
        folder = tmp_path / "data"
        shutil.rmtree(folder, ignore_errors=True)
        for shade, (name, text) in enumerate(files.items()):
            if text.strip():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(mutate(name, text, rng) if name == changed else text.encode())
            else:
                draw(folder / name, shade)
        try:
            source = MultiLabelSource(folder, on_bad_image=rng.choice(["skip", "error"]))
            for split in source.splits:
                dataset = source.load(split, hold_out=False)
                find_bad_images(dataset)
                str(summarize(dataset))
            counts["read"] += 1
        except (ValueError, OSError) as error:
            counts["one error" if str(error) else "an error without a word"] += 1
    assert counts["an error without a word"] == 0
    assert counts.total() == MUTATIONS
    assert min(counts["read"], counts["one error"]) > MUTATIONS // 10  # so changes of both kinds were tried
    with capsys.disabled():
        print(f"\n{MUTATIONS} changed files tried, 0 tracebacks; {dict(counts)}")


def pictures(folder, *names):
    for shade, name in enumerate(names or ("a.jpg", "b.jpg")):
        draw(folder / name, shade)
    return folder


LAUGHS = "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(10))
ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
NESTED = {
    "metadata.jsonl": '{"file_name": "a.jpg", "labels": ' + "[" * 200_000 + "]" * 200_000 + "}\n",
    "metadata.csv": 'file_name,labels\na.jpg,"' + "[" * 100_000 + "]" * 100_000 + '"\nb.jpg,cat\n',
    "labels.json": "[" * 100_000 + "]" * 100_000,
    "instances.json": '{"images": [], "annotations": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "data.yaml": "train: .\nnames: " + "[" * 5_000 + "]" * 5_000,
}
BOMBS = {
    "annotations.xml": f'<!DOCTYPE l [<!ENTITY a "ha">{LAUGHS}]><annotations><image name="&k;"/></annotations>',
    "data.yaml": f"{ALIASES}train: .\nnames: *j\n",
    "metadata.yaml": f"{ALIASES}train: *j\nnames: [a, b]\n",
    "README.md": f"---\n{ALIASES}configs:\n- data_files: *j\n---\n",
}


@pytest.mark.parametrize(("name", "text"), [*NESTED.items(), *BOMBS.items()])
def test_what_is_nested_too_deeply_or_grows_is_one_error(tmp_path, name, text):
    (pictures(tmp_path / "data") / name).write_text(text)
    if name == "README.md":
        for picture in (tmp_path / "data").glob("*.jpg"):
            picture.unlink()
    with pytest.raises(ValueError, match=r"\w") as raised:
        load_multilabel_dataset(tmp_path / "data")
    assert len(str(raised.value)) < 1000


def test_xml_names_no_other_file(tmp_path):
    (tmp_path / "annotations.xml").write_text(
        '<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotations><image name="a.jpg"><tag label="&a;"/>'
        "</image></annotations>"
    )
    with pytest.raises(ValueError, match="is no XML"):
        load_multilabel_dataset(tmp_path / "annotations.xml")


def test_a_parquet_file_that_grows_is_one_error(tmp_path, monkeypatch):
    column = pa.array(["a.jpg"] * 100_000)
    pa.parquet.write_table(pa.table({"file_name": column, "labels": column}), tmp_path / "metadata.parquet")
    monkeypatch.setattr(tables, "MOST_READ", 100_000)
    with pytest.raises(
        ValueError, match=r"metadata\.parquet cannot be read as a table: it grows to more than 20 times"
    ):
        load_multilabel_dataset(tmp_path / "metadata.parquet")
    monkeypatch.setattr(tables, "MOST_ROWS", 99_999)
    with pytest.raises(ValueError, match="it has 100,000 rows, at most 99,999 are read"):
        load_multilabel_dataset(tmp_path / "metadata.parquet")


@pytest.mark.slow
def test_a_changed_binary_file_is_read_or_one_error(tmp_path, capsys):
    """In a process of its own, since a damaged array could end it."""
    pictures(tmp_path / "data")
    cells = [{"bytes": (tmp_path / f"data/{name}.jpg").read_bytes(), "path": None} for name in "ab"]
    features = Features({"image": Image(), "labels": List(Value("string"))})
    dataset = Dataset.from_dict({"image": cells * 5, "labels": [["cat"], ["dog", "cat"]] * 5}, features)
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "metadata.parquet")
    script = f"""
import os, random, shutil, sys
from pathlib import Path
import datasets
datasets.disable_progress_bars()
datasets.config.HF_DATASETS_CACHE = Path({str(tmp_path / "cache")!r})
from gkgnet_hf.data import MultiLabelSource
from gkgnet_hf.data.checks import find_bad_images
root, rng, read, errors = Path({str(tmp_path)!r}), random.Random({SEED}), 0, 0
for number in range(300):
    shutil.rmtree(root / "try", ignore_errors=True)
    if number % 2:
        shutil.copytree(root / "saved", root / "try")
        file = next((root / "try").glob("*.arrow"))
    else:
        (root / "try").mkdir()
        file = Path(shutil.copy(root / "metadata.parquet", root / "try"))
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 3, 30])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    file.write_bytes(content[: rng.choice([None, None, rng.randrange(len(content))])])
    try:
        source = MultiLabelSource(root / "try", on_bad_image="skip")
        find_bad_images(source.load(None))
        read += 1
    except (ValueError, OSError):
        errors += 1
print(f"300 changed arrays tried: {{read}} read, {{errors}} one error")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with capsys.disabled():
        print(f"\n{done.stdout.strip().splitlines()[-1]}")


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_no_pickle_of_a_dataset_is_opened(tmp_path):
    evil = pickle.dumps(Canary(tmp_path / "canary"))
    folder = pictures(tmp_path / "data")
    for name in ("x.pkl", "x.pickle", "x.pt", "x.pth", "x.npy", "x.bin"):
        (folder / name).write_bytes(evil)
    picture = (folder / "a.jpg").read_bytes()
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/0.tar", "w") as archive:
        for number in range(3):
            members = {"jpg": picture, "cls": b"0", "pyd": evil, "pth": evil, "npy": evil, "pickle": evil}
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    for source in (folder, tmp_path / "shards"):
        with pytest.raises(ValueError, match=r"\w"):
            load_multilabel_dataset(source)
    assert not (tmp_path / "canary").exists()


def write_zip(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            member = zipfile.ZipInfo("x")
            member.filename, member.compress_type = name, zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return path


def write_tar(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..\\x", "\\x", ".."])
def test_an_archive_writes_nothing_outside_its_folder(tmp_path, cache, write, name):
    archive = write(tmp_path / ("a.zip" if write is write_zip else "a.tar.gz"), (name, b"x"))
    with pytest.raises(ValueError, match="is not below its folder"):
        load_multilabel_dataset(archive)
    assert not [*cache.rglob("*")][1:]  # the folder of unpacked archives is empty


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_an_archive_that_grows_is_refused_before_it_fills_the_disk(tmp_path, cache, write, monkeypatch):
    monkeypatch.setattr(archives, "MOST_WRITTEN", 1 << 20)
    archive = write(tmp_path / ("a.zip" if write is write_zip else "a.tar.gz"), ("a", b"\0" * (4 << 20)))
    with pytest.raises(ValueError, match="it grows to more than a hundred times its size"):
        load_multilabel_dataset(archive)
    assert not [*cache.rglob("*")][1:]


def test_a_header_that_asks_for_more_than_a_memory_is_refused(tmp_path):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    with gzip.open(tmp_path / "a.tar.gz", "wb") as archive:
        archive.write(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ValueError, match=r"a header says that it has 1,099,511,627,776 bytes"):
        load_multilabel_dataset(tmp_path / "a.tar.gz")


def test_what_a_killed_process_left_of_an_archive_is_removed(tmp_path, cache):
    left = cache / "gkgnet_hf_unpacked" / "0123-77"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    picture = draw(tmp_path / "a.jpg").read_bytes()
    archive = write_zip(tmp_path / "a.zip", ("metadata.csv", "file_name,labels\na::b.jpg,cat\n"), ("a::b.jpg", picture))
    assert file_names(load_multilabel_dataset(archive)) == ["a::b.jpg"]
    assert not left.exists()


def test_pipes_and_circles_are_not_followed(tmp_path):
    folder = pictures(tmp_path / "photos", "1.png", "in/2.png")
    for number in range(40):
        (folder / f"link{number}").symlink_to(".")
        (folder / f"in/up{number}").symlink_to("..")
    for name in ("pipe.png", "labels.json", "metadata.jsonl", "train.txt", "a.xml", "data.yaml", "annotations.xml"):
        os.mkfifo(folder / name)
    names = [file.name for file in find_images([folder])]
    assert names == ["1.png", "2.png"]
    assert [file.name for file in find_images(f"{folder}/**/*.png")] == names
    assert [file.name for file in find_images(f"{folder}/**")] == names
    with pytest.raises(ValueError, match=r"pipe\.png cannot be read: it is a pipe or a device, not a file"):
        find_images([folder / "pipe.png"])
    for source in (folder, folder / "labels.json"):
        with pytest.raises(ValueError, match=r"\w"):
            load_multilabel_dataset(source)


def test_a_link_that_leads_out_of_a_folder_is_said(tmp_path, caplog):
    outside = draw(tmp_path / "elsewhere/2.png")
    folder = pictures(tmp_path / "photos", "1.png")
    (folder / "2.png").symlink_to(outside)
    assert len(find_images([folder])) == 2
    assert f"Pictures outside are read, such as {folder / '2.png'}, which is {outside}" in caplog.text


def test_only_pictures_are_copied_into_a_dataset_that_may_be_published(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_text("a key")
    folder = pictures(tmp_path / "data")
    (folder / "metadata.csv").write_text(f"file_name,labels\na.jpg,cat\nb.jpg,dog\n{secret},cat\n")
    with pytest.raises(ValueError, match=r"secret\.png: it is not a picture of a known format"):
        write_imagefolder(MultiLabelSource(folder), tmp_path / "out")
    out = write_imagefolder(MultiLabelSource(folder, on_bad_image="skip"), tmp_path / "out")
    assert sorted(file.name for file in out.rglob("*.*")) == ["a.jpg", "b.jpg", "metadata.parquet"]


def test_names_of_stored_pictures_cannot_leave_or_replace_anything(tmp_path):
    content = draw(tmp_path / "a.png").read_bytes()
    names = ["..", "../../x.png", "metadata.parquet", "a\nb.png", "", "x" * 300 + ".png", ".hidden.png", "a/../b.png"]
    cells = [{"bytes": content, "path": name} for name in names]
    features = Features({"image": Image(), "labels": List(Value("string"))})
    Dataset.from_dict({"image": cells, "labels": [["cat"]] * len(names)}, features).save_to_disk(tmp_path / "saved")
    out = write_imagefolder(MultiLabelSource(tmp_path / "saved"), tmp_path / "out")
    assert len(load_multilabel_dataset(out)) == len(names)
    assert {path.parent for path in out.rglob("*.*")} == {out / "train"}


def bomb(path, side=13_300):
    """A PNG of 0.7 MB whose pixels take 708 MB."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    row = bytes(1 + 4 * side)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([8, 6, 0, 0, 0])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


MEASURED = """
import resource, sys
from pathlib import Path
from gkgnet_hf import GKGNetConfig, create_image_processor
from gkgnet_hf.data.pictures import check_pictures
from gkgnet_hf.predict import read_images
files = sorted(map(str, Path(sys.argv[1]).glob("*.png")))
processor = create_image_processor(GKGNetConfig())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(check_pictures(files, use_cache=False, num_workers=8))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
print(tuple(read_images(processor, files[:3]).shape))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_eight_small_files_that_decode_to_708_mb_each_take_the_memory_of_one(tmp_path):
    first = bomb(tmp_path / "0.png")
    for number in range(1, 8):
        shutil.copy(first, tmp_path / f"{number}.png")
    assert first.stat().st_size < 1_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-2000:]
    problems, checked, shape, read = done.stdout.splitlines()
    assert (problems, shape) == ("{}", "(3, 3, 224, 224)")
    assert float(checked) < 1000  # MB, whichever the number of threads
    assert float(read) < 2500  # one is shrunk, with its transparency multiplied in, before the next is opened


@pytest.mark.parametrize("label_id", [-1, 2, 10**12])
def test_an_id_of_no_label_is_one_error(tmp_path, label_id):
    folder = pictures(tmp_path / "data")
    items = [{"id": f"{name}.jpg", "annotations": [{"type": "label", "label_id": label_id}]} for name in "ab"]
    labels = {"label": {"labels": [{"name": "cat"}, {"name": "dog"}]}}
    content = {"dm_format_version": "1.0", "categories": labels, "items": items}
    (folder / "default.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"label id {label_id} is named, and there are 2, counted from 0"):
        load_multilabel_dataset(folder)
