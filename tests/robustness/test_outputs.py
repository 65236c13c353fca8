"""Where results go: nothing that is there is replaced or read through a link, and no table says what is written."""

import io
import os
import struct
import tarfile
import zlib

import numpy as np
import PIL.Image
import pytest

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.data.pictures import PictureError, check_pictures, open_picture
from gkgnet_hf.predict import label_thresholds
from gkgnet_hf.predict.collection import multiply_shards
from gkgnet_hf.predict.label_rules import LabelRules, read_label_rules
from gkgnet_hf.predict.outputs import Parts
from gkgnet_hf.predict.rows import LONGEST_LINE, read_rows

LABELS = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    sizes = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_neighbors": 3, "num_groups": 1}
    config = GKGNetConfig(**sizes, id2label=dict(enumerate(LABELS)), image_size=32)
    GKGNetForImageClassification(config).save_pretrained(folder)
    create_image_processor(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "data").mkdir()
    for shade in range(2):
        PIL.Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / f"data/{shade}.png")
    return tmp_path


def predict(run_in, place, model, *words, source="data"):
    return run_in(place, "predict", model, source, "--num-workers", "0", "--threshold", "0", *words)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "bytes", "endless"])
@pytest.mark.parametrize("existing", ["append", "replace"])
def test_what_stands_where_tags_would_go_is_neither_read_nor_replaced(place, model, run_in, kind, existing):
    secret, file = place / "secret", place / "data/0.png.txt"
    secret.write_text("PRIVATE")
    make = {
        "link": lambda: file.symlink_to(secret),
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
        "bytes": lambda: file.write_bytes(b"\xff\xfe"),
        "endless": lambda: file.symlink_to("/dev/zero"),
    }
    make[kind]()
    before = os.lstat(file)
    code, _, err = predict(run_in, place, model, "--output", "sidecars", "--existing", existing)
    assert code == 0, err
    assert "0.png.txt beside it stays as it is" in err
    assert (os.lstat(file).st_ino, os.lstat(file).st_size) == (before.st_ino, before.st_size)
    assert secret.read_text() == "PRIVATE"
    assert (place / "data/1.png.txt").is_file()


@pytest.mark.parametrize("way", ["..", "absolute", "link"])
def test_a_table_cannot_say_where_tags_are_written(place, model, run_in, way):
    (place / "tables").mkdir()
    (place / "tables/inside.png").write_bytes((place / "data/1.png").read_bytes())
    (place / "tables/linked").symlink_to(place / "data")
    (place / "data/0.txt").write_text("notes")
    path = {"..": "../data/0.png", "absolute": str(place / "data/0.png"), "link": "linked/0.png"}[way]
    (place / "tables/table.csv").write_text(f"image\n{path}\ninside.png\n")
    words = ("--output", "sidecars", "--sidecar-name", "picture.txt", "--existing", "replace")
    code, _, err = predict(run_in, place, model, *words, source="tables/table.csv")
    assert code == 0, err
    assert "outside the folder of its table" in err
    assert (place / "data/0.txt").read_text() == "notes"
    assert (place / "tables/inside.txt").is_file()
    predict(run_in, place, model, *words, "--image-dir", "data", source="tables/table.csv")
    assert way == "link" or (place / "data/0.txt").read_text() != "notes"  # the user has named that folder


def test_an_output_replaces_nothing_that_no_run_made(place, model, run_in):
    table = "image\ndata/0.png\n"
    (place / "mine.csv").write_text(table)
    (place / "folder.csv").mkdir()
    (place / "link.jsonl").symlink_to(place / "mine.csv")
    for name in ("mine.csv", "folder.csv", "link.jsonl"):
        code, _, err = predict(run_in, place, model, "--output", name, source="mine.csv")
        assert code == 2
        assert f"{name} is there, and no earlier run made it" in err
    assert (place / "mine.csv").read_text() == table
    for _ in range(2):  # what a run made is made again
        assert predict(run_in, place, model, "--output", "new.csv")[0] == 0


def test_names_that_are_not_utf8_are_written(place, model, run_in):
    code, _, err = predict(run_in, place, model, "--output", "a\udcff.csv", "--rename", "cat=\udcfe")
    assert code == 0, err
    assert "\\udcfe" in (place / "a\udcff.csv").read_text()
    code, _, err = predict(run_in, place, model, "--output", "sidecars", "--rename", "cat=\udcfe")
    assert code == 0, err


@pytest.mark.parametrize("output", [[], ["--json"], ["--csv"], ["--output", "labels.csv"], ["--output", "sidecars"]])
def test_a_line_of_standard_input_need_not_be_utf8(place, model, run_in, monkeypatch, output):
    (place / "data/0.png").rename(place / os.fsdecode(b"data/\xff.png"))
    lines = b"data/\xff.png\ndata/\xfe gone.png\na\0b.png\ndata/1.png\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    code, out, err = predict(run_in, place, model, *output, source="-")
    assert code == 0, err
    if output[:1] == ["--output"]:
        assert "2 pictures labelled" in err
    else:
        assert "udcff.png" in out
        assert "data/1.png" in out
    assert "udcfe gone.png: There is no file" in err
    assert "There is no file a\\x00b.png" in err


def test_two_runs_do_not_write_the_same_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("gkgnet_hf.predict.outputs.LET_GO", 0.1)
    path = tmp_path / "labels.parquet"
    first = Parts(path, LABELS, {})
    with pytest.raises(BlockingIOError, match="Another run writes"):
        Parts(path, LABELS, {})
    Parts(path, LABELS, {}, shard="2-of-2").close()
    first.close()
    Parts(path, LABELS, {}).close()


@pytest.mark.parametrize("content", ["[]", "[1]", "null", "{", "[" * 100_000])
def test_a_damaged_record_of_a_run_is_one_error(tmp_path, content):
    (tmp_path / "labels.parquet").mkdir()
    (tmp_path / "labels.parquet/.run.json").write_text(content)
    with pytest.raises(ValueError, match=r"\.run\.json is damaged|another labels"):
        Parts(tmp_path / "labels.parquet", LABELS, {})


def test_a_chain_of_implications_has_no_depth():
    implied = {"cat": ["0"], **{str(i): [str(i + 1)] for i in range(20_000)}}
    rules = LabelRules(["cat"], label_thresholds(0.5, 1), implied=implied)
    assert len(rules(np.array([0.75]))) == 20_002


def test_a_label_table_that_is_a_pipe_is_one_error(tmp_path):
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(ValueError, match="a pipe"):
        read_label_rules(LABELS, 0.5, tmp_path / "labels.csv")


@pytest.mark.parametrize("source", ["photoz/cat.jpg", "tables/x.csv", "shards/x.tar"])
def test_the_hub_is_not_asked_for_a_file_that_is_missing(source):
    with pytest.raises(FileNotFoundError, match="No file or folder"):
        read_rows([source])


def test_sources_that_grow_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be the path of a file"):
        list(read_rows(["-"], lines=io.StringIO("a" * (LONGEST_LINE + 1))))
    with tarfile.open(tmp_path / "shard.tar", "w", format=tarfile.PAX_FORMAT) as shard:
        member = tarfile.TarInfo("a.png")
        member.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,4", "GNU.sparse.numblocks": "1"}
        member.size = 4
        shard.addfile(member, io.BytesIO(b"data"))
    with pytest.raises(ValueError, match="sparse"):
        list(read_rows([tmp_path / "shard.tar"]))


@pytest.mark.parametrize(("rank", "world_size"), [(0, 0), (7, 1), (-1, 2)])
def test_a_process_that_is_none_of_its_job_is_one_error(rank, world_size):
    with pytest.raises(ValueError, match="RANK"):
        multiply_shards((1, 1), rank, world_size)


def test_a_tiff_file_of_many_pages_is_not_counted():
    page = struct.pack("<H", 9)
    for tag, kind, value in ((256, 3, 8), (257, 3, 8), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8)):
        page += struct.pack("<HHII", tag, kind, 1, value)
    page += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((277, 1), (278, 8), (279, 64)))
    content, pages, size = b"II*\0" + struct.pack("<I", 72) + bytes(64), 200_000, len(page) + 4
    content += b"".join(page + struct.pack("<I", (72 + size * (i + 1)) * (i < pages - 1)) for i in range(pages))
    assert open_picture(content).size == (8, 8)


def test_a_jpeg_file_of_many_scans_is_refused():
    stream = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 60).save(stream, "jpeg", progressive=True)
    content = stream.getvalue()
    assert check_pictures([content]) == {}
    scan = content[content.rfind(b"\xff\xda") : -2]
    with pytest.raises(PictureError, match="scans"):
        open_picture(content[:-2] + scan * 1000 + content[-2:])


@pytest.mark.parametrize("size", [(1, 1 << 27), (1 << 27, 1)])
def test_a_thread_of_pixels_is_refused(size):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with pytest.raises(PictureError, match="one side more than"):
        open_picture(content)
