"""A data set from a stranger cannot run code, call out, or reach what is no file: every kind of source, every path."""

import csv
import io
import json
import os
import random
import shutil
import socket
import tarfile
import zipfile
from collections import Counter
from xml.sax.saxutils import escape, quoteattr

import datasets
import fsspec.core
import PIL.EpsImagePlugin
import PIL.Image
import pyarrow.parquet
import pytest
import yaml
from datasets import Dataset, Features, Image, List, Value

from gkgnet_hf.data import MultiLabelSource, downloads, load_multilabel_dataset, picture_files, to_multilabel
from gkgnet_hf.data.checks import find_bad_images
from gkgnet_hf.data.paths import PathError, read_path
from gkgnet_hf.data.pictures import FORMATS, PictureError, PictureFeature, open_picture
from gkgnet_hf.predict import find_images

from ..image_files import draw, file_names

SEED = 0
# What a table, a label file or an archive may say; {refs} is a file whose template writes a canary where it is run.
PATHS = [
    *("reference://x0::file://{refs}", "reference::refs.json", "reference://k?fo={refs}", "file://{refs}"),
    *("http://127.0.0.1:9/a.png", "Http://127.0.0.1:9/a.png", "https://example.org/a.png", "ftp://h/x.png"),
    *("hf://datasets/a/b/c.png", "s3://bucket/key", "github://a:b@/c.png", "memory://x", "sftp://h/a.png"),
    *("zip://a.png::photos.zip", "tar://a.png::b.tar", "simplecache::http://127.0.0.1:9/a.png", "filecache::x"),
    *("dir://a::reference://", "blockcache::local://", "local:///etc/passwd", "file:///etc/passwd", "shell::x"),
    *("/etc/passwd", "../../../../etc/passwd", "..", "/", "./", ".", "~/a.png", "$HOME/a.png", "C:\\a.png"),
    *("/dev/zero", "/proc/self/mem", "pipe.png", "passwd.png", "loop.png", "here/a.png", "\\\\host\\share\\a.png"),
    *("", " ", "a\0b.png", "x" * 5000, "cat\nx.png", "\x1b[2J.png", "=cmd.png", "::", "://", "a://", "\u202e.png"),
]
CELLS = {"a.png": "cat", "b.png": "dog"}


@pytest.fixture(autouse=True)
def watched(tmp_path, monkeypatch):
    """The folder of canaries; what asks fsspec for anything but a file, or the network for anything, is an error."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    parse = fsspec.core._un_chain

    def parse_files_alone(path, kwargs):
        assert "::" not in str(path), path
        assert "://" not in str(path), path
        return parse(path, kwargs)

    def refuse(*arguments, **_):
        raise AssertionError(f"the network is asked: {arguments}")

    monkeypatch.setattr(fsspec.core, "_un_chain", parse_files_alone)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def references(folder):
    """A reference file whose template writes a canary where it is run."""
    command = f"touch {folder / 'canary'}"
    template = "{{ cycler.__init__.__globals__.os.system('" + command + "') }}"
    file = folder / "reference::refs.json"
    file.write_text(json.dumps({"version": 1, "templates": {"x": template}, "refs": {"k": ["{{x}}"]}}))
    return file


@pytest.fixture
def place(tmp_path):
    """A fresh folder with two pictures, a pipe, and links to a file outside, to itself and to the folder."""

    def make(name):
        folder = tmp_path / name
        for shade, picture in enumerate(CELLS):
            draw(folder / picture, shade)
        os.mkfifo(folder / "pipe.png")
        for link, target in {"passwd.png": "/etc/passwd", "loop.png": "loop.png", "here": "."}.items():
            (folder / link).symlink_to(target)
        return folder, references(folder)

    return make


def rows(path):
    return [*CELLS.items(), (path, "cat")]


def write_csv(folder, path):
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "labels"), *rows(path)])


def write_jsonl(folder, path):
    lines = [json.dumps({"file_name": file, "labels": [label]}) for file, label in rows(path)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def structs(folder, path, image):
    """Pictures by their paths alone, as Image columns store them; a second column has the path in every row."""
    cells = [{"bytes": None, "path": str(folder / file) if file in CELLS else file} for file, _ in rows(path)]
    columns = {"image": cells, "labels": [[label] for _, label in rows(path)], "mask": [cells[-1]] * 3}
    return Dataset.from_dict(columns, Features({"image": image, "labels": List(Value("string")), "mask": image}))


def write_parquet(folder, path):
    dataset = structs(folder, path, Image(decode=False))
    pyarrow.parquet.write_table(dataset.data.table, folder / "metadata.parquet")


def write_shards(folder, path):
    (folder / "hub" / "data").mkdir(parents=True)
    dataset = structs(folder, path, Image(decode=False))
    pyarrow.parquet.write_table(dataset.data.table, folder / "hub/data/train-00000-of-00001.parquet")
    return folder / "hub"


def write_saved(folder, path):
    structs(folder, path, {"bytes": Value("binary"), "path": Value("string")}).save_to_disk(folder / "saved")
    info = json.loads((folder / "saved/dataset_info.json").read_text())
    info["features"] |= {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}
    (folder / "saved/dataset_info.json").write_text(json.dumps(info))
    return folder / "saved"


def write_card(folder, path):
    hub = write_shards(folder, "b.png")
    files = random.Random(path).choice([path, [path], [{"split": "train", "path": [path]}]])
    (hub / "README.md").write_text(
        f"---\n{yaml.safe_dump({'configs': [{'config_name': 'a', 'data_files': files}]})}---"
    )
    return hub


def write_coco(folder, path):
    content = {
        "images": [{"id": i, "file_name": file} for i, (file, _) in enumerate(rows(path))],
        "annotations": [{"id": i, "image_id": i, "category_id": i % 2, "bbox": [0, 0, 1, 1]} for i in range(3)],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations/instances_train.json").write_text(json.dumps(content))


def write_voc(folder, path):
    for file, label in rows(path):
        name = file if file in CELLS else "c.png"
        draw(folder / "voc" / name)
        xml = f"<annotation><filename>{escape(file)}</filename><object><name>{label}</name></object></annotation>"
        (folder / "voc" / name).with_suffix(".xml").write_text(xml)
    return folder / "voc"


def write_voc_sets(folder, path):
    for name in ("a", "b"):
        draw(folder / f"JPEGImages/{name}.jpg")
    (folder / "ImageSets/Main").mkdir(parents=True)
    for label, answers in {"cat": "a 1\nb -1\n", "dog": "a -1\nb 1\n"}.items():
        (folder / f"ImageSets/Main/{label}_train.txt").write_text(
            f"{answers}{path.split()[0] if path.split() else 'c'} 1\n"
        )


def write_yolo(folder, path):
    for name in ("a", "b"):
        draw(folder / f"images/train/{name}.png")
        (folder / "labels/train").mkdir(parents=True, exist_ok=True)
        (folder / f"labels/train/{name}.txt").write_text("0 0 0 1 1\n")
    content = {"path": path, "train": "images/train", "val": path, "names": ["cat", "dog"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))


def write_yolo_list(folder, path):
    (folder / "data.yaml").write_text(yaml.safe_dump({"train": "list.txt", "names": ["cat", "dog"]}))
    (folder / "list.txt").write_text(f"a.png\nb.png\n{path}")
    (folder / "a.txt").write_text("0 0 0 1 1\n")


def write_label_studio(folder, path):
    tasks = [
        {
            "data": {"image": f"/data/local-files/?d={file}" if i else file},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": ["cat", "dog"][i % 2 :]}}]}],
        }
        for i, file in enumerate((path, *CELLS, path))
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))


def write_text_list(folder, path):
    (folder / "train.txt").write_text(f"a.png 1 0\nb.png 0 1\n{path} 1 1\n")


def write_cvat(folder, path):
    images = "".join(f"<image name={quoteattr(file)}><tag label='{label}'/></image>" for file, label in rows(path))
    (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")


def write_datumaro(folder, path):
    items = [
        {"id": file, "image": {"path": file}, "annotations": [{"type": "label", "label_id": i % 2}]}
        for i, (file, _) in enumerate(rows(path))
    ]
    labels = {"label": {"labels": [{"name": "cat"}, {"name": "dog"}]}}
    (folder / "annotations").mkdir()
    content = {"dm_format_version": "1.0", "categories": labels, "items": items}
    (folder / "annotations/default.json").write_text(json.dumps(content))


def write_fiftyone(folder, path):
    samples = [{"filepath": file, "truth": {"_cls": "Classification", "label": label}} for file, label in rows(path)]
    (folder / "samples.json").write_text(json.dumps({"samples": samples}))


def write_celeba(folder, path):
    (folder / "list_attr_celeba.txt").write_text(f"3\ncat dog\na.png 1 -1\nb.png -1 1\n{path} 1 1\n")


def write_nuswide(folder, path):
    (folder / "ImageList").mkdir()
    (folder / "Groundtruth/TrainTestLabels").mkdir(parents=True)
    (folder / "ImageList/TrainImagelist.txt").write_text(f"a.png\nb.png\n{path}")
    for label, answers in {"cat": "1\n0\n1", "dog": "0\n1\n1"}.items():
        (folder / f"Groundtruth/TrainTestLabels/Labels_{label}_Train.txt").write_text(answers)


def write_json(folder, path):
    (folder / "labels.json").write_text(json.dumps({file: [label] for file, label in rows(path)}))


TABLE = b"file_name,labels\na.png,cat\nb.png,dog\n"


def write_webdataset(folder, path):
    (folder / "shards").mkdir()
    picture = (folder / "a.png").read_bytes()
    members = {"a.png": picture, "a.cls": b"0", path[:90] or "x": b"x", "b.png": picture, "b.cls": b"1"}
    with tarfile.open(folder / "shards/0.tar", "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("\0", ""))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder / "shards"


def write_zip(folder, path):
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("metadata.csv", TABLE)
        for name in CELLS:
            archive.write(folder / name, name)
        member = zipfile.ZipInfo("x")
        member.filename = path
        archive.writestr(member, b"x")
    return folder / "photos.zip"


def write_tar(folder, path):
    with tarfile.open(folder / "photos.tar.gz", "w:gz") as archive:
        for name in CELLS:
            archive.add(folder / name, name)
        for name, content in {"metadata.csv": TABLE, path.replace("\0", "") or "x": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        links = {"soft": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
        for name, kind in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, path.replace("\0", "") or "x"
            archive.addfile(member)
    return folder / "photos.tar.gz"


def write_folders(folder, path):
    """The path is the name of a file, as far as it can be one."""
    for label in ("cat", "dog"):
        draw(folder / "labels" / label / "1.png")
        draw(folder / "labels" / label / "2.png", 2)
    name = path.replace("/", "_").replace("\0", "")[:100]
    shutil.copy(folder / "reference::refs.json", folder / "labels/cat" / f"{name}.png")
    (folder / "labels/dog/link.png").symlink_to(path.replace("\0", "")[:1000] or "x")
    return folder / "labels"


KINDS = {name.removeprefix("write_"): write for name, write in sorted(globals().items()) if name.startswith("write_")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_cannot_run_code_call_out_or_hang(kind, place, tmp_path, capsys):
    counts, longest = Counter(), 0
    for number, path in enumerate(PATHS):
        folder, refs = place(f"{number}/data")
        source = KINDS[kind](folder, path.format(refs=refs) if "{refs}" in path else path) or folder
        try:
            opened = MultiLabelSource(source, on_bad_image="skip")
            for split in opened.splits:
                dataset = opened.load(split, hold_out=False)
                find_bad_images(dataset)
                for row in range(len(dataset)):
                    try:
                        dataset[row]
                    except (PictureError, FileNotFoundError):
                        counts["a picture is refused when it is read"] += 1
            counts["read without it"] += 1
        except (ValueError, OSError) as error:
            counts["one error"] += 1
            longest = max(longest, len(str(error).splitlines()))
    assert longest <= 7  # a sentence, and a few of the rows; the command makes one line of them
    assert not list(tmp_path.rglob("canary"))
    assert not (folder.parent / "x").exists()
    with capsys.disabled():
        print(f"\n{kind}: {len(PATHS)} paths tried, 0 executed, 0 fetched; {dict(counts)}")


@pytest.mark.parametrize("kind", ["csv", "parquet", "saved", "coco", "yolo", "zip", "tar", "card"])
def test_a_path_of_each_sort_is_refused_in_each_kind_of_source(kind, place, tmp_path):
    for number, path in enumerate(PATHS[:10:3]):
        folder, refs = place(f"{number}/data")
        source = KINDS[kind](folder, path.format(refs=refs)) or folder
        try:
            opened = MultiLabelSource(source, on_bad_image="skip")
            for split in opened.splits:
                find_bad_images(opened.load(split, hold_out=False))
        except (ValueError, OSError):
            pass
    assert not list(tmp_path.rglob("canary"))


def table(folder, *cells):
    for shade, name in enumerate(CELLS):
        draw(folder / name, shade)
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "labels"), *CELLS.items(), *((cell, "cat") for cell in cells)])
    return folder


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("reference://x0::file:///refs.json", "a chain of addresses (::) is never opened"),
        ("simplecache::https://example.org/a.png", "a chain of addresses (::) is never opened"),
        ("s3://bucket/a.png", "s3:// is never opened, only files, and http(s):// and hf:// with --allow-urls"),
        ("https://example.org/a.png", "it is a web address, which is fetched only with --allow-urls"),
        ("hf://datasets/a/b/c.png", "it is a web address, which is fetched only with --allow-urls"),
        ("pipe.png", "it is a pipe or a device, not a file"),
        ("..", "it is a folder"),
        ("nowhere.png", "the file is missing"),
    ],
)
def test_what_is_no_file_is_refused_with_the_reason(tmp_path, path, reason):
    folder = table(tmp_path / "data", path)
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(ValueError, match="1 image cannot be used") as raised:
        load_multilabel_dataset(folder)
    assert str(raised.value).splitlines()[1].endswith(reason)
    for way in (open_picture, lambda path: PictureFeature().decode_example({"path": path, "bytes": None})):
        with pytest.raises((PictureError, FileNotFoundError)):
            way(path)


def test_a_file_whose_name_looks_like_an_address_is_read(tmp_path, monkeypatch):
    folder = table(tmp_path / "data", "a::b.png", "reference::refs.png", "http:b.png")
    for name in ("a::b.png", "reference::refs.png", "http:b.png"):
        draw(folder / name, 7)
    assert len(file_names(load_multilabel_dataset(folder))) == 5
    monkeypatch.chdir(folder)
    assert len(find_images(".")) == len(find_images("*.png")) == 5
    assert open_picture("reference::refs.png").getpixel((0, 0)) == (7, 3, 0)


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "linked folder"])
def test_paths_that_leave_the_folder_are_said_once(tmp_path, way):
    outside = draw(tmp_path / "elsewhere/c.png", 3)
    folder = tmp_path / "data"
    cell = {"absolute": str(outside), "dots": "../elsewhere/c.png", "link": "c.png", "linked folder": "in/c.png"}[way]
    table(folder, cell)
    if way == "link":
        (folder / "c.png").symlink_to(outside)
    if way == "linked folder":
        (folder / "in").symlink_to(outside.parent)
    source = MultiLabelSource(folder)
    assert len(source.load(None)) == len(source.load(None)) == 3
    said = [sentence for sentence in source.assumptions if "outside" in sentence]
    assert len(said) == 1
    assert said[0].startswith(f"warning: pictures outside {folder} are read, such as ")
    inside = MultiLabelSource(table(tmp_path / "inside"))
    inside.load(None)
    assert not any("outside" in sentence for sentence in inside.assumptions)


def test_a_dataset_of_the_hub_cannot_name_files_of_this_machine(tmp_path):
    path = str(draw(tmp_path / "private.png"))
    dataset = Dataset.from_dict({"image": [path], "labels": [["cat"]]})
    assert len(to_multilabel(dataset)) == 1  # of one's own
    for data in (dataset, dataset.to_iterable_dataset()):
        with pytest.raises(ValueError, match="a dataset on the Hub cannot name a file of this machine"):
            list(to_multilabel(data, labels=["cat"], repo="someone/birds"))


def test_addresses_are_fetched_once_and_only_when_asked_for(tmp_path, monkeypatch):
    folder = table(tmp_path / "data", "https://example.org/c.png?size=8", "https://example.org/lost.png")
    content = draw(tmp_path / "c.png", 9).read_bytes()
    asked = []

    def fetch(address):
        asked.append(address)
        if "lost" in address:
            raise downloads.DownloadError("it cannot be fetched: 404")
        return content

    monkeypatch.setattr(downloads, "fetch", fetch)
    monkeypatch.setattr(picture_files, "fetch", fetch)
    with pytest.raises(ValueError, match="--allow-urls"):
        load_multilabel_dataset(folder)
    assert not asked
    with pytest.raises(ValueError, match=r"row 3, https://example.org/lost.png: it cannot be fetched: 404"):
        load_multilabel_dataset(folder, allow_urls=True)
    dataset = load_multilabel_dataset(folder, allow_urls=True, on_bad_image="skip")
    assert [image.getpixel((0, 0))[0] for image in dataset["image"]] == [0, 1, 9]
    assert len([address for address in asked if "c.png" in address]) == 1
    stream = Dataset.from_dict({"image": ["https://example.org/d.png"], "labels": [["cat"]]}).to_iterable_dataset()
    (row,) = to_multilabel(stream, labels=["cat"], allow_urls=True)
    assert row["image"].getpixel((0, 0))[0] == 9


def test_the_hubs_own_addresses_need_no_permission_and_others_do():
    own = "hf://datasets/someone/birds@main/a.png"
    assert read_path(own, repo="someone/birds") == own
    for address in (own.replace("birds", "birds2"), "https://example.org/a.png", f"zip://a.png::{own}"):
        with pytest.raises(PathError):
            read_path(address, repo="someone/birds")


def test_a_card_that_names_its_own_files_is_read(place):
    folder, _ = place("data")
    hub = write_card(folder, "b.png")
    (hub / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: data/train-*\n---\n")
    assert len(load_multilabel_dataset(hub, on_bad_image="skip")) == 2


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
WMF = b"\xd7\xcd\xc6\x9a" + b"\0" * 18 + b"\x01\x00\x09\x00" + b"\0" * 100


def test_no_picture_reaches_another_program(tmp_path, monkeypatch):
    def run(*_, **__):
        raise AssertionError("Ghostscript is called")

    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", run)
    for name, content in {"c.png": EPS, "d.jpg": WMF, "e.eps": EPS}.items():
        file = tmp_path / name
        file.write_bytes(content)
        for image in (str(file), content, {"path": str(file), "bytes": None}, {"path": "c.png", "bytes": content}):
            with pytest.raises(PictureError, match=r"a PostScript document|a Windows metafile"):
                open_picture(image)
        folder = table(tmp_path / f"data-{name}", str(file))
        dataset = load_multilabel_dataset(folder)
        with pytest.raises(PictureError, match=r"a PostScript document|a Windows metafile"):
            dataset[2]
    PIL.Image.init()
    assert {"EPS", "WMF", "PSD", "FITS", "HDF5", "GRIB", "BUFR", "MPEG"}.isdisjoint(FORMATS)


def test_other_columns_of_pictures_are_opened_as_carefully(tmp_path):
    folder = table(tmp_path / "data")
    paths = [
        {"path": str(folder / "a.png"), "bytes": None},
        {"path": "reference://x::file:///refs.json", "bytes": None},
    ]
    features = Features({"image": Image(), "mask": Image(), "masks": List(Image()), "labels": List(Value("string"))})
    columns = {"image": paths[:1], "mask": paths[1:], "masks": [paths[1:]], "labels": [["cat"]]}
    dataset = to_multilabel(Dataset.from_dict(columns, features))
    for name in ("mask", "masks"):
        with pytest.raises(PictureError, match="a chain of addresses"):
            dataset.select_columns(name)[0]
