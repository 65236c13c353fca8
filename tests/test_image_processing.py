"""Images of any mode mean the same to the image processor, to `pipeline`, to predict and to training."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.modeling.image_processing_gkgnet import to_mode_of
from gkgnet_hf.predict import predict, predict_scores
from gkgnet_hf.training.transforms import AUGMENTATIONS, eval_transform, train_transform

from .test_models import small_config

MODES = ["RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBA", "LA"]


def picture(mode="RGB", size=(80, 60)):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.fixture(scope="module", params=[3, 1], ids=["RGB", "grey"])
def model(request):
    torch.manual_seed(0)
    return GKGNetForImageClassification(small_config(num_channels=request.param, initializer_range=0.2)).eval()


@pytest.fixture(scope="module")
def processor(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    create_image_processor(model.config).save_pretrained(folder)
    return AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("mode", MODES)
def test_the_processor_alone_takes_every_mode_as_predict_does(mode, backend, tmp_path):
    create_image_processor(small_config()).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    image = picture(mode)
    alone = processor(image, return_tensors="pt")["pixel_values"]
    prepared = processor(to_mode_of(processor, image), return_tensors="pt")["pixel_values"]
    assert torch.equal(alone, prepared)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_predicted_and_trained_on(mode, model, processor):
    image = picture(mode)
    pixel_values = eval_transform(processor)(image)
    assert pixel_values.shape == (model.config.num_channels, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values[None]).logits.sigmoid().numpy()
    np.testing.assert_allclose(predict_scores(model, processor, [image]), expected, rtol=1e-5)
    for augmentation in AUGMENTATIONS:
        assert train_transform(processor, augmentation)(image).shape == pixel_values.shape


@pytest.mark.parametrize("mode", MODES)
def test_the_pipeline_of_transformers_scores_as_predict(mode):
    torch.manual_seed(0)
    model = GKGNetForImageClassification(small_config(initializer_range=0.2)).eval()
    processor = create_image_processor(model.config)
    image = picture(mode)
    (expected,) = predict(model, processor, [image], top_k=5)
    found = pipeline("image-classification", model=model, image_processor=processor)(image)
    assert {each["label"]: pytest.approx(each["score"], abs=1e-5) for each in expected} == {
        each["label"]: each["score"] for each in found
    }


def test_a_grey_picture_has_the_same_grey_levels_in_a_network_of_one_channel():
    processor = create_image_processor(GKGNetConfig(num_channels=1, image_size=(60, 80)))
    grey = np.asarray(picture("L"), dtype=np.float64) / 255
    pixel_values = processor(picture("L"), return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(pixel_values[0, 0], (grey - 0.449) / 0.226, atol=1e-5)
    np.testing.assert_array_equal(eval_transform(processor)(picture("L").convert("RGB")), pixel_values[0])


def test_more_channels_need_images_that_have_them():
    processor = create_image_processor(GKGNetConfig(num_channels=5, image_size=64))
    image = np.zeros((5, 64, 64), dtype=np.uint8)
    assert processor(image, input_data_format="channels_first", return_tensors="pt")["pixel_values"].shape[1] == 5
    message = "takes 5 channels, the image has the shape"
    model = GKGNetForImageClassification(small_config(num_channels=5))
    for read in (lambda: predict_scores(model, processor, [picture()]), lambda: train_transform(processor)(picture())):
        with pytest.raises(ValueError, match=message):
            read()
