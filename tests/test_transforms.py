"""Augmentation, the evaluation transform, and the datasets that apply them."""

import io
import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from gkgnet_hf import create_image_processor
from gkgnet_hf.modeling.image_processing_gkgnet import to_rgb
from gkgnet_hf.training.transforms import (
    AUGMENTATIONS,
    CropMix,
    NoiseErasing,
    TransformedDataset,
    eval_transform,
    oversample,
    train_transform,
    transform_stream,
)

from .test_models import small_config

SIZE = (64, 48)  # height, width
AREAS = {  # of the views by their number, fractions of the image
    2: [(0.01, 1.0)],
    3: [(0.01, 0.34), (0.34, 0.67)],
    4: [(0.01, 0.2575), (0.2575, 0.505), (0.505, 0.7525)],
}


def photo(seed=0, size=(80, 60)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return PILImage.fromarray(coarse).resize(size)


def pixels(image):
    return v2.functional.pil_to_tensor(image)


@pytest.fixture(scope="module")
def processor():
    return create_image_processor(small_config(image_size=SIZE))


@pytest.fixture(scope="module")
def photos():
    labels = np.random.default_rng(0).integers(-1, 2, (12, 5)).astype(np.float32)
    return Dataset.from_dict(
        {"image": [photo(i) for i in range(12)], "labels": list(labels), "image_id": range(12)},
        Features({"image": Image(), "labels": List(Value("float32"), length=5), "image_id": Value("int64")}),
    )


@pytest.mark.parametrize("size", [(640, 480), (200, 50)])
def test_cropmix_blends_one_crop_of_each_band_and_nearly_the_whole_image(size):
    image = pixels(photo(size=size))
    seen = set()
    for _ in range(60):
        params = CropMix(SIZE).make_params([image])
        areas = sorted(box["height"] * box["width"] / (size[0] * size[1]) for box in params["boxes"])
        seen.add(len(areas))
        if size == (640, 480):  # of a wide image torchvision crops the middle where no crop of the band fits
            for area, (low, high) in zip(areas, AREAS[len(areas)], strict=False):
                assert low - 0.01 <= area <= high + 0.01
        assert areas[-1] > 0.97
        assert len(params["weights"]) == len(params["permutations"]) == len(areas) - 1
    assert seen == {2, 3, 4}


def test_cropmix_permutes_the_channels_of_the_lighter_view():
    image = torch.tensor([10, 100, 200], dtype=torch.uint8)[:, None, None].expand(3, 40, 40)
    cycle = torch.tensor([1, 2, 0])  # 10, 100, 200 → 100, 200, 10
    whole = {"top": 0, "left": 0, "height": 40, "width": 40}
    for weight, expected in ((0.75, [32.5, 125, 152.5]), (0.25, [32.5, 125, 152.5]), (1.0, [10, 100, 200])):
        params = {"boxes": [whole, whole], "weights": [weight], "permutations": [cycle]}
        mixed = CropMix((8, 8)).transform(image, params)
        assert mixed.dtype == torch.uint8
        torch.testing.assert_close(mixed[:, 4, 4].double(), torch.tensor(expected).double(), atol=0.5, rtol=0)


def test_cropmix_is_decided_by_torchs_seed():
    image, outputs = pixels(photo()), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(CropMix(SIZE)(image))
    assert outputs[0].shape == (3, *SIZE)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("image", [torch.zeros(3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8), photo()])
def test_cropmix_says_what_it_takes(image):
    with pytest.raises(TypeError, match="uint8 tensors"):
        CropMix(SIZE)(image)


def test_half_of_the_images_lose_a_rectangle_to_noise_of_the_datasets_pixels():
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    erase = NoiseErasing(mean=[0.5, 0.6, 0.4], std=[0.1, 0.05, 0.1])
    erased = [output for output in (erase(image) for _ in range(200)) if output.any()]
    assert 70 < len(erased) < 130
    for output in erased:
        assert 0.015 < (output[1] > 0).float().mean() < 0.345
    noise = torch.cat([output[:, output[1] > 0] for output in erased], dim=1).double() / 255
    torch.testing.assert_close(noise.mean(1), torch.tensor([0.5, 0.6, 0.4]).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(noise.std(1), torch.tensor([0.1, 0.05, 0.1]).double(), atol=0.01, rtol=0)


@pytest.mark.parametrize("augmentation", [None, "none"])
def test_evaluation_is_the_image_processor_to_the_bit(processor, augmentation):
    transform = train_transform(processor, augmentation) if augmentation else eval_transform(processor)
    image = photo(size=(213, 160))
    expected = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    assert transform(image).shape == (3, *SIZE)
    assert torch.equal(transform(image), expected)


def test_paper_augmentation_stands_in_the_papers_order(processor):
    steps = train_transform(processor, "paper").transforms
    names = [type(step).__name__ for step in steps if isinstance(step, v2.Transform)]
    order = ["RandomChoice", "RandomHorizontalFlip", "NoiseErasing", "ColorJitter", "TrivialAugmentWide", "Normalize"]
    assert [name for name in names if name in order] == order


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_transform_gives_normalised_pixels_and_can_travel_to_a_worker(processor, augmentation):
    transform = pickle.loads(pickle.dumps(train_transform(processor, augmentation)))
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    outputs = [transform(photo()) for _ in range(20)]
    for output in outputs:
        assert output.shape == (3, *SIZE)
        assert output.dtype == torch.float32
        values = 255 * (output * std + mean)
        assert (values - values.round()).abs().max() < 1e-3
        assert values.min() > -0.1
        assert values.max() < 255.1
    if augmentation != "none":
        assert len({output.numpy().tobytes() for output in outputs}) == 20


def test_light_augmentation_flips_half_of_the_images(processor):
    brighter_to_the_right = PILImage.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    transform = train_transform(processor, "light")
    rows = [transform(brighter_to_the_right)[0, 10] for _ in range(100)]
    assert 30 < sum(bool(row[0] > row[-1]) for row in rows) < 70


def test_wrong_augmentation_or_processor_is_one_clear_error(processor):
    with pytest.raises(ValueError, match="paper, light, none, got 'heavy'"):
        train_transform(processor, "heavy")
    shortest = type(processor)(size={"shortest_edge": 64})
    with pytest.raises(ValueError, match="height and a width"):
        train_transform(shortest)


def sixteen_bits(value):
    return PILImage.fromarray(np.full((4, 4), value, dtype=np.uint16))


def palette(**info):
    image = PILImage.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (PILImage.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3)),
        (PILImage.new("L", (4, 4), 7), (7, 7, 7)),
        (PILImage.new("1", (4, 4), 1), (255, 255, 255)),
        (PILImage.new("RGBA", (4, 4), (1, 2, 3, 255)), (1, 2, 3)),
        (PILImage.new("RGBA", (4, 4), (1, 2, 3, 0)), (255, 255, 255)),
        (PILImage.new("LA", (4, 4), (7, 0)), (255, 255, 255)),
        (palette(), (255, 0, 0)),
        (palette(transparency=1), (255, 255, 255)),
        (PILImage.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (sixteen_bits(65535), (255, 255, 255)),
        (sixteen_bits(128 * 257), (128, 128, 128)),
        (sixteen_bits(128 * 257).convert("I"), (128, 128, 128)),
    ],
)
def test_every_kind_of_image_becomes_rgb(image, expected):
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert rgb.getpixel((2, 2)) == expected


def test_exif_orientation_is_applied_once():
    exif = PILImage.Exif()
    exif[PILImage.ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    photo(size=(80, 60)).save(file, "JPEG", exif=exif)
    upright = to_rgb(PILImage.open(file))
    assert upright.size == (60, 80)
    assert to_rgb(upright).size == (60, 80)


def test_an_item_depends_on_seed_epoch_and_index_alone(processor, photos):
    transform = train_transform(processor)
    dataset = TransformedDataset(photos, transform, seed=3)
    expected = torch.stack([dataset[i]["pixel_values"] for i in range(12)])
    torch.manual_seed(99)
    backwards = torch.stack([dataset[i]["pixel_values"] for i in reversed(range(12))])
    assert torch.equal(backwards.flip(0), expected)
    assert torch.equal(dataset[-1]["pixel_values"], expected[-1])
    dataset.set_epoch(1)
    assert not torch.equal(dataset[0]["pixel_values"], expected[0])
    dataset.set_epoch(0)
    assert torch.equal(dataset[0]["pixel_values"], expected[0])
    assert not torch.equal(TransformedDataset(photos, transform, seed=4)[0]["pixel_values"], expected[0])


def test_workers_give_the_same_items_and_hear_of_a_new_epoch(processor, photos):
    dataset = TransformedDataset(photos, train_transform(processor))
    batches = DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=True)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        loaded = torch.cat([batch["pixel_values"] for batch in batches])
        assert torch.equal(loaded, torch.stack([dataset[i]["pixel_values"] for i in range(12)]))


def test_reading_leaves_the_random_state_of_the_caller(processor, photos):
    state = torch.get_rng_state()
    item = TransformedDataset(photos, train_transform(processor))[2]
    assert torch.equal(torch.get_rng_state(), state)
    assert set(item) == {"pixel_values", "labels"}
    assert item["labels"].dtype == torch.float32
    assert item["labels"].tolist() == photos[2]["labels"]


def test_a_missing_column_is_named(processor, photos):
    with pytest.raises(ValueError, match=r"no column labels, it has \['image', 'image_id'\]"):
        TransformedDataset(photos.remove_columns("labels"), eval_transform(processor))


def test_a_stream_is_transformed_when_it_is_read(processor, photos):
    read = []

    def transform(image):
        read.append(image)
        return eval_transform(processor)(image)

    stream = transform_stream(photos.to_iterable_dataset(num_shards=2), transform)
    assert not read
    item = next(iter(stream))
    assert len(read) == 1
    expected = TransformedDataset(photos, eval_transform(processor))[0]
    assert set(item) == set(expected)
    assert all(torch.equal(item[name], expected[name]) for name in expected)
    loaded = [batch["labels"] for batch in DataLoader(stream, batch_size=5, num_workers=2)]
    assert torch.cat(loaded).shape == (12, 5)


def test_images_of_rare_labels_are_repeated_by_the_root_of_their_rarity():
    labels = np.zeros((1000, 4), dtype=np.float32)
    labels[:, 0] = 1
    labels[:4, 1] = 1  # 0.4 % of the images, 2 of them also of the next: √(0.04 / 0.004) = 3.16 times
    labels[2:12, 2] = 1  # 1 %: 2 times
    labels[100:, 3] = -1  # known in 100 images, positive in 4 of them: 1 time
    labels[20:24, 3] = 1
    dataset = Dataset.from_dict({"labels": labels, "number": range(1000)})
    counts = np.mean(
        [np.bincount(oversample(dataset, 0.04, seed)["number"][:], minlength=1000) for seed in range(50)], axis=0
    )
    np.testing.assert_allclose(counts[:4], np.sqrt(10), atol=0.15)
    np.testing.assert_array_equal(counts[4:12], 2)
    np.testing.assert_array_equal(counts[12:], 1)


def test_the_seed_decides_how_counts_are_rounded():
    dataset = Dataset.from_dict({"labels": np.eye(50, dtype=np.float32), "number": range(50)})
    once, again, other = (oversample(dataset, 0.05, seed)["number"][:] for seed in (0, 0, 1))
    assert once == again
    assert once != other
    assert set(once) == set(range(50))


def test_wrong_oversampling_is_one_clear_error():
    dataset = Dataset.from_dict({"labels": [[1.0]]})
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        oversample(dataset, 2)
    with pytest.raises(TypeError, match="IterableDataset"):
        oversample(dataset.to_iterable_dataset())
