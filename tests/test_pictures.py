"""Pictures of any kind are read right or refused with the reason, whatever their size."""

import json
import os
import pickle
import sqlite3
import sys
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from huggingface_hub import constants
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, ViTImageProcessor

from gkgnet_hf import GKGNetConfig, create_image_processor
from gkgnet_hf.data import pictures
from gkgnet_hf.data.pictures import (
    PLUGIN_SUFFIXES,
    READABLE_SUFFIXES,
    UNREADABLE_SUFFIXES,
    PictureError,
    check_pictures,
    open_picture,
    picture_reader,
)
from gkgnet_hf.predict import load_model, predict_scores, read_images
from gkgnet_hf.training.experiment import run_training
from gkgnet_hf.training.recipe import read_recipe
from gkgnet_hf.training.transforms import (
    TransformedDataset,
    eval_transform,
    fit_mean_and_std,
    train_transform,
    transform_stream,
)

RED, GREEN, BLUE = (240, 20, 20), (20, 230, 40), (30, 60, 160)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "hf_home"
    monkeypatch.setattr(constants, "HF_HOME", str(folder))
    return folder


def scene(mode: str = "RGB") -> Image.Image:
    """96 × 64 pixels: a blue ground, a red square top left, a green one bottom right."""
    image = Image.new("RGB", (96, 64), BLUE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 31, 31), fill=RED)
    draw.rectangle((64, 32, 95, 63), fill=GREEN)
    return image.convert(mode, palette=Image.Palette.ADAPTIVE)


def content(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def assert_shows_scene(image: Image.Image, tolerance: int = 12) -> None:
    assert image.mode == "RGB"
    width, height = image.size
    for (x, y), color in {(1, 1): RED, (5, 5): GREEN, (5, 1): BLUE, (1, 5): BLUE}.items():
        pixel = image.getpixel((x * width // 6, y * height // 6))
        assert np.abs(np.subtract(pixel, color)).max() <= tolerance, (x, y, pixel)


def assert_grey_scene(image: Image.Image, tolerance: int = 2) -> None:
    expected = np.asarray(scene("L").convert("RGB")).astype(int)
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= tolerance


def problem(file: str | os.PathLike[str] | bytes, **options: int) -> str:
    """Why a file cannot be used; opening it and checking it agree."""
    found = check_pictures([file], **options)[0]
    with pytest.raises((PictureError, FileNotFoundError)) as raised:
        open_picture(file, **options)
    if isinstance(raised.value, PictureError):
        assert raised.value.problem == found
    return found


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "jpeg2000", "ppm", "qoi", "tga", "pcx"])
def test_every_format_shows_the_scene(kind):
    if kind.upper() not in Image.SAVE:
        Image.init()
    if kind.upper() not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    data = content(scene(), kind, **options)
    assert_shows_scene(open_picture(data), tolerance=20 if kind == "gif" else 12)
    assert check_pictures([data]) == {}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_every_colour_mode_shows_the_scene(mode):
    file = content(scene(mode), "tiff")
    if mode == "YCbCr":
        try:
            Image.open(BytesIO(file)).load()
        except OSError:
            pytest.skip("this Pillow does not read the file that it wrote")
    assert_shows_scene(open_picture(file), tolerance=20)


def test_cmyk_jpeg_shows_the_scene():
    assert_shows_scene(open_picture(content(scene("CMYK"), "jpeg", quality=95, subsampling=0)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_the_orientation_is_applied(kind, orientation):
    undo = [None, *(Image.Transpose[name] for name in ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"))]
    undo += [Image.Transpose[name] for name in ("TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270")]
    step = undo[orientation - 1]
    stored = scene() if step is None else scene().transpose(step)
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    image = open_picture(content(stored, kind, exif=exif, **options))
    assert image.size == (96, 64)
    assert_shows_scene(image)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_data_does_not_matter():
    assert_shows_scene(open_picture(content(scene(), "jpeg", exif=b"Exif\0\0II*\0broken", quality=95, subsampling=0)))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_grey_values_of_any_depth_are_scaled(kind, bits):
    full = 2**bits - 1
    values = np.asarray(scene("L")).astype(np.float64) * full / 255
    values[0, 0] = full
    image = open_picture(content(Image.fromarray(np.round(values).astype(np.uint16)), kind))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    image.putpixel((0, 0), scene("L").convert("RGB").getpixel((0, 0)))
    assert_grey_scene(image)


@pytest.mark.parametrize("full", [1, 255])
def test_float_values_are_scaled(full):
    values = np.asarray(scene("L")).astype(np.float32) * full / 255
    assert_grey_scene(open_picture(content(Image.fromarray(values), "tiff")))


def test_float_values_of_another_range_are_stretched_and_never_black():
    values = np.linspace(-300, 3000, 96 * 64, dtype=np.float32).reshape(64, 96)
    values[0, 1] = np.nan
    pixels = np.asarray(open_picture(content(Image.fromarray(values), "tiff")))
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    assert pixels[0, 1, 0] == 0
    nothing = np.full((4, 4), np.nan, dtype=np.float32)
    assert "no pixel is a finite number" in problem(content(Image.fromarray(nothing), "tiff"))


def test_transparent_pixels_are_white():
    image = scene("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    assert open_picture(content(image, "png")).getpixel((0, 0)) == (255, 255, 255)
    palette = scene("P")
    palette.info["transparency"] = palette.getpixel((48, 5))
    assert open_picture(content(palette, "png", transparency=palette.getpixel((48, 5)))).getpixel((48, 5)) == (255,) * 3


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_the_first_picture_of_several_is_used(kind, caplog):
    others = [Image.new("RGB", (96, 64), "black")] * 2
    options = {"lossless": True} if kind == "webp" else {}
    data = content(scene(), kind, save_all=True, append_images=others, **options)
    assert_shows_scene(open_picture(data), tolerance=20)
    assert check_pictures([data]) == {}
    said = [record.getMessage() for record in caplog.records]
    assert said == (["1 file has several pages, of which the first is used: picture 0"] if kind == "tiff" else [])


def test_one_channel_gives_a_grey_image():
    image = open_picture(content(scene(), "png"), num_channels=1)
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(scene("L")))


def test_four_channels_are_read_from_a_png():
    array = open_picture(content(scene("RGBA"), "png"), num_channels=4)
    assert array.shape == (64, 96, 4)
    assert problem(content(scene(), "png"), num_channels=4) == "it has 3 channels, and the model takes 4"


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_of_many_bands_is_read_as_it_is(dtype, planarconfig):
    tifffile = pytest.importorskip("tifffile")
    values = (np.random.default_rng(0).random((5, 20, 30)) * 200).astype(dtype)
    by_pixel = np.moveaxis(values, 0, -1)
    stored = by_pixel if planarconfig == "contig" else values
    stream = BytesIO()
    tifffile.imwrite(stream, stored, photometric="minisblack", planarconfig=planarconfig)
    array = open_picture(stream.getvalue(), num_channels=5)
    np.testing.assert_array_equal(array, by_pixel)
    assert array.dtype == dtype
    assert check_pictures([stream.getvalue()], num_channels=5) == {}
    assert problem(stream.getvalue()) == "it has 5 channels, and the model takes 3"


def test_bands_that_are_pages_are_read():
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 10000, (7, 20, 30), dtype=np.uint16)
    stream = BytesIO()
    tifffile.imwrite(stream, values, photometric="minisblack")
    np.testing.assert_array_equal(open_picture(stream.getvalue(), num_channels=7), np.moveaxis(values, 0, -1))


@pytest.mark.parametrize(("dtype", "full"), [(np.float32, 1), (np.uint16, 4095), (np.uint16, 65535)])
@pytest.mark.parametrize("alpha", [False, True])
def test_deep_colour_tiff_shows_the_scene(dtype, full, alpha):
    tifffile = pytest.importorskip("tifffile")
    values = np.asarray(scene("RGBA" if alpha else "RGB")) / 255 * full
    stream = BytesIO()
    extra = {"extrasamples": ["unassalpha"]} if alpha else {}
    tifffile.imwrite(stream, values.astype(dtype), photometric="rgb", **extra)
    assert_shows_scene(open_picture(stream.getvalue()))


def test_a_missing_tiff_reader_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert "pip install tifffile" in problem(content(scene(), "tiff"), num_channels=5)


def test_a_large_jpeg_is_shrunk_while_it_is_decoded():
    data = content(scene().resize((3072, 2048)), "jpeg", quality=95, subsampling=0)
    image = open_picture(data, size=100)
    assert image.size == (384, 256)
    assert_shows_scene(image)
    assert open_picture(data).size == (3072, 2048)
    assert open_picture(content(scene(), "jpeg"), size=1000).size == (96, 64)


def test_only_the_pixels_that_are_decoded_count(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
    large = scene().resize((3072, 2048))
    jpeg = content(large, "jpeg")
    assert open_picture(jpeg, size=100).size == (384, 256)
    assert check_pictures([jpeg]) == {}
    with pytest.raises(PictureError, match="6 million pixels, at most 1 million are read"):
        open_picture(jpeg)
    for data in (content(large, "png"), content(large, "webp"), content(large, "jpeg", progressive=True)):
        said = problem(data)
        assert "save it smaller" in said
        assert "MAX_IMAGE_PIXELS" not in said
        assert "DOS" not in said


def png(width: int, height: int, bits: int = 8, rows: bytes | None = None) -> bytes:
    """An RGB picture from the bytes of its rows, default zeros; each row begins with its filter, 0."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, 2, 0, 0, 0])
    pixels = zlib.compress(bytes((3 * width + 1) * height) if rows is None else rows, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_pictures_that_are_decoded_at_once_have_a_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    decode, lock = pictures._PillowPicture.decode, threading.Lock()
    pixels = most = 0

    def counted(picture, convert=True):
        nonlocal pixels, most
        with lock:
            pixels += picture.num_pixels
            most = max(most, pixels)
        decoded = decode(picture, convert)
        with lock:
            pixels -= picture.num_pixels
        return decoded

    monkeypatch.setattr(pictures._PillowPicture, "decode", counted)
    assert check_pictures([png(1400, 1400)] * 8 + [png(700, 700)] * 8, num_workers=8) == {}
    assert 1400 * 1400 <= most <= 2_000_000


def test_broken_files_are_named_with_a_short_reason(tmp_path):
    jpeg, lossless = content(scene(), "jpeg"), content(scene(), "png")
    assert problem(jpeg[: len(jpeg) // 2]) == "the file is cut off"
    assert problem(lossless[: len(lossless) // 2]) == "the file is cut off"
    assert problem(b"") == "the file is empty"
    assert problem(b"hello") == "it is not a picture of a known format"
    assert problem(lossless[:60] + bytes(20) + lossless[80:]).startswith("the file is damaged")
    assert problem(tmp_path) == "it is a folder"
    assert problem(os.devnull) == "it is a pipe or a device, not a file"
    assert problem(tmp_path / "no.jpg") == "the file is missing"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert problem(tmp_path / "pipe.jpg") == "it is a pipe or a device, not a file"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer (run git lfs pull)"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript document"),
    ],
)
def test_what_is_no_picture_is_named(start, kind):
    assert kind in problem(start)


def test_a_missing_plugin_is_named(monkeypatch):
    monkeypatch.setattr(pictures, "FORMATS", tuple(kind for kind in pictures.FORMATS if kind not in ("HEIF", "AVIF")))
    assert "pip install pillow-heif" in problem(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "pip install pillow-avif-plugin" in problem(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif")


def test_heic_is_read_where_its_plugin_is_installed():
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = BytesIO()
    pillow_heif.from_pillow(scene()).save(stream, quality=95)
    assert_shows_scene(open_picture(stream.getvalue()))
    assert ".heic" in READABLE_SUFFIXES


def test_raw_camera_files_are_refused_though_pillow_reads_their_thumbnail(tmp_path):
    (tmp_path / "a.NEF").write_bytes(content(scene(), "tiff"))
    assert problem(tmp_path / "a.NEF").startswith("raw camera files are not read")


def test_each_suffix_stands_in_one_list():
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".jfif", ".mpo"} <= READABLE_SUFFIXES
    assert {".cr2", ".svg", ".psd", ".pdf", ".eps"} <= UNREADABLE_SUFFIXES
    assert not READABLE_SUFFIXES & UNREADABLE_SUFFIXES
    assert not READABLE_SUFFIXES & set(PLUGIN_SUFFIXES)
    assert {".heic", ".avif"} <= READABLE_SUFFIXES | set(PLUGIN_SUFFIXES)


def test_errors_name_the_file_and_survive_a_worker_process(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"hello")
    with pytest.raises(PictureError) as raised:
        open_picture(path)
    assert str(raised.value) == f"{path}: it is not a picture of a known format"
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.problem) == (str(raised.value), raised.value.problem)


def write_pictures(folder: Path, number: int) -> list[Path]:
    paths = [folder / f"{place}.png" for place in range(number)]
    for path in paths:
        path.write_bytes(content(scene(), "png"))
    return paths


def test_good_files_are_not_read_again_until_they_change(tmp_path, monkeypatch):
    paths = write_pictures(tmp_path, 3)
    paths[1].write_bytes(b"hello")
    read: list[object] = []
    check = pictures._check

    def counted(file, **options):
        read.append(file)
        return check(file, **options)

    monkeypatch.setattr(pictures, "_check", counted)
    assert list(check_pictures(paths)) == [1]
    assert sorted(read) == paths
    read.clear()
    assert list(check_pictures(paths)) == [1]
    assert read == [paths[1]]
    read.clear()
    paths[0].write_bytes(b"hello, world")
    paths[1].write_bytes(content(scene(), "png"))
    assert list(check_pictures(paths)) == [0]
    assert sorted(read) == paths[:2]
    read.clear()
    assert check_pictures(paths[2:], num_channels=1) == {}  # good for three channels need not be good for one
    assert check_pictures(paths[2:], use_cache=False) == {}
    assert len(read) == 2


def test_a_cache_that_cannot_be_used_is_no_error(tmp_path, cache_folder, monkeypatch):
    paths = write_pictures(tmp_path, 2)
    cache_folder.write_text("a file where the folder should be")
    assert check_pictures(paths) == {}
    cache_folder.unlink()
    (cache_folder / "gkgnet_hf").mkdir(parents=True)
    (cache_folder / "gkgnet_hf" / "pictures.sqlite").write_bytes(b"not a database" * 100)
    assert check_pictures(paths) == {}


def test_a_cache_that_another_process_has_locked_is_no_error(tmp_path, cache_folder, monkeypatch):
    paths = write_pictures(tmp_path, 2)
    assert check_pictures(paths) == {}
    connect = sqlite3.connect
    monkeypatch.setattr(pictures.sqlite3, "connect", lambda path: connect(path, timeout=0.01))
    other = connect(cache_folder / "gkgnet_hf" / "pictures.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    assert check_pictures(paths) == {}
    other.close()


def test_contents_may_come_from_an_iterator_and_need_not_fit_in_memory(monkeypatch):
    monkeypatch.setattr(pictures, "CHUNK", 4)
    alive = most = 0

    class Content(bytes):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def contents():
        nonlocal alive, most
        for place in range(40):
            alive += 1
            most = max(most, alive)
            yield Content(b"hello" if place == 30 else content(scene(), "png"))

    assert list(check_pictures(contents())) == [30]
    assert most <= 10


def test_a_colour_png_of_twelve_bits_in_sixteen_is_refused_not_black():
    def stored(scale: int) -> bytes:
        values = (np.asarray(scene()).astype(np.uint16) * scale).astype(">u2")
        return png(96, 64, bits=16, rows=b"".join(b"\0" + row.tobytes() for row in values))

    assert "12 bits in 16" in problem(stored(16))
    assert_shows_scene(open_picture(stored(256)))


@pytest.fixture(scope="module")
def processor() -> ViTImageProcessor:
    return create_image_processor(GKGNetConfig(image_size=64))


def odd_pictures(folder: Path) -> list[Path]:
    """Pictures that `Image.open` alone would give black, refuse, or decode whole."""
    scene().resize((1536, 1024)).save(folder / "large.jpg", quality=95)
    values = np.asarray(scene("L")).astype(np.float32) / 255
    Image.fromarray(values).save(folder / "float.tiff")
    Image.fromarray((values * 4095).astype(np.uint16)).save(folder / "twelve.png")
    return sorted(folder.iterdir())


def test_training_evaluation_and_prediction_read_the_same_pixels(tmp_path, processor):
    paths = odd_pictures(tmp_path)
    rows = {"image": [str(path) for path in paths], "labels": [[1.0]] * len(paths)}
    dataset = Dataset.from_dict(rows).cast_column("image", ImageFeature())
    transform, read = eval_transform(processor), picture_reader(processor)
    predicted = read_images(processor, paths)
    for values in (
        [TransformedDataset(dataset, transform, read=read)[i]["pixel_values"] for i in range(len(paths))],
        [row["pixel_values"] for row in transform_stream(dataset.to_iterable_dataset(), transform, read)],
        list(read_images(processor, [open_picture(path, 128) for path in paths])),
    ):
        torch.testing.assert_close(torch.stack(values), predicted)
    assert predicted.flatten(1).std(1).min() > 0.3  # none is black


def test_a_picture_larger_than_pillow_takes_is_shrunk_and_trained_on(tmp_path, processor, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
    scene().resize((3072, 2048)).save(tmp_path / "large.jpg")
    rows = {"image": [str(tmp_path / "large.jpg")], "labels": [[1.0]]}
    dataset = Dataset.from_dict(rows).cast_column("image", ImageFeature())
    train = TransformedDataset(dataset, train_transform(processor), read=picture_reader(processor))
    assert train[0]["pixel_values"].shape == (3, 64, 64)


def test_an_image_that_breaks_in_training_is_named(tmp_path, processor):
    (tmp_path / "broken.jpg").write_bytes(b"hello")
    rows = {"image": [str(tmp_path / "broken.jpg")], "labels": [[1.0]]}
    dataset = Dataset.from_dict(rows).cast_column("image", ImageFeature())
    with pytest.raises(ValueError, match=r"broken\.jpg: it is not a picture of a known format"):
        TransformedDataset(dataset, eval_transform(processor))[0]


@pytest.mark.parametrize("augmentation", ["paper", "light", "none"])
def test_bands_are_scaled_by_their_mean_and_deviation(tmp_path, augmentation):
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.tif" for i in range(6)]
    for path in paths:
        bands = rng.normal([[[3000]], [[500]], [[8000]], [[100]], [[1]]], [[[900]], [[50]], [[10]], [[30]], [[0.1]]])
        tifffile.imwrite(path, rng.permuted(np.float32(bands + np.zeros((5, 80, 80))), axis=1), planarconfig="separate")
    rows = {"image": [str(path) for path in paths], "labels": [[1.0]] * 6}
    dataset = Dataset.from_dict(rows).cast_column("image", ImageFeature())
    processor = create_image_processor(GKGNetConfig(image_size=64, num_channels=5))
    fit_mean_and_std(processor, dataset)
    transform = train_transform(processor, augmentation)
    train = TransformedDataset(dataset, transform, read=picture_reader(processor))
    values = torch.stack([train[i]["pixel_values"] for i in range(6)])
    assert values.shape == (6, 5, 64, 64)
    assert values.abs().mean() < 2
    torch.testing.assert_close(
        read_images(processor, paths)[0], eval_transform(processor)(open_picture(paths[0], None, 5))
    )


def test_a_model_of_five_bands_is_trained_measured_and_asked(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(0)
    for label, place in ((label, place) for label in ("wet", "dry") for place in range(4)):
        folder = tmp_path / "fields" / label
        folder.mkdir(parents=True, exist_ok=True)
        bands = rng.integers(0, 10_000, (5, 40, 40), dtype=np.uint16)
        tifffile.imwrite(folder / f"{label}{place}.tif", bands, photometric="minisblack", planarconfig="separate")
    out = tmp_path / "out"
    words = ["custom", "--dataset", str(tmp_path / "fields"), "--backbone_checkpoint", "none", "--output_dir", str(out)]
    words += ["--config", json.dumps({"num_channels": 5, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]})]
    words += ["--use_cpu", "--max_steps", "2", "--image_size", "64", "--per_device_train_batch_size", "2"]
    words += ["--dataloader_num_workers", "0", "--report_to", "none", "--disable_tqdm", "true"]
    assert 0 <= run_training(read_recipe(words))["eval_mAP"] <= 100
    model, processor = load_model(str(out)), AutoImageProcessor.from_pretrained(out)
    assert len(processor.image_mean) == 5
    assert 4000 < 255 * np.mean(processor.image_mean) < 6000
    scores = predict_scores(model, processor, [tmp_path / "fields" / "wet" / "wet0.tif"])
    assert np.isfinite(scores).all()
