"""At home in transformers: Auto classes, pipeline, labels, errors."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTImageProcessor,
    pipeline,
)
from transformers.utils import find_labels

from gkgnet_hf import (
    GKGNetBackbone,
    GKGNetConfig,
    GKGNetForImageClassification,
    GKGNetModel,
    create_image_processor,
)

from .test_models import NUM_LABELS, small_config


@pytest.fixture
def model():
    return GKGNetForImageClassification(small_config()).eval()


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 64, 64)


def test_the_trainer_finds_the_one_column_of_labels():
    assert find_labels(GKGNetForImageClassification) == ["labels"]


def test_auto_classes_load_a_saved_folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    create_image_processor(model.config).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), GKGNetConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), GKGNetModel)
    assert isinstance(AutoModelForImageClassification.from_pretrained(tmp_path), GKGNetForImageClassification)
    assert isinstance(AutoBackbone.from_config(model.config), GKGNetBackbone)
    assert isinstance(GKGNetBackbone.from_pretrained(tmp_path), GKGNetBackbone)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_image_processor_is_the_stock_one_square_bicubic_imagenet(tmp_path, backend):
    config = GKGNetConfig(image_size=96)
    config.save_pretrained(tmp_path)
    create_image_processor(config).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(processor).__module__.startswith("transformers.models.vit.")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    actual = processor(image, return_tensors="pt")["pixel_values"]
    pixels = np.asarray(image.resize((96, 96), Image.Resampling.BICUBIC)) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert actual.shape == (1, 3, 96, 96)
    assert np.abs(actual[0].permute(1, 2, 0).numpy() - expected).max() < 0.05


def test_processor_of_a_pair_of_sides():
    processor = create_image_processor(GKGNetConfig(image_size=(64, 96)))
    assert isinstance(processor, ViTImageProcessor)
    assert (processor.size["height"], processor.size["width"]) == (64, 96)


def test_pipeline_gives_sigmoid_scores(model, tmp_path):
    model.save_pretrained(tmp_path)
    create_image_processor(model.config).save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    scores = {s["label"]: s["score"] for s in classify(image, top_k=NUM_LABELS)}
    pixel_values = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"]
    expected = model(pixel_values).logits.sigmoid()[0]
    for label, probability in enumerate(expected.tolist()):
        assert scores[model.config.id2label[label]] == pytest.approx(probability, abs=1e-4)


def test_label_neighbors_tell_which_patches_a_label_looked_at(model, pixel_values):
    neighbors = model(pixel_values, output_neighbors=True).label_neighbors
    assert [tuple(n.shape) for n in neighbors] == [
        (2, 2, NUM_LABELS, 9),
        (2, 2, NUM_LABELS, 9),
        (2, 2, NUM_LABELS, 9),
        (2, 2, NUM_LABELS, 4),  # the last stage has but four patches
    ]
    for stage, n in enumerate(neighbors):
        assert 0 <= n.min() <= n.max() < (16 // 2**stage) ** 2
    assert model(pixel_values).label_neighbors is None


def test_a_stage_without_cross_level_module_has_no_neighbors(pixel_values):
    model = GKGNetModel(small_config(num_label_blocks=(0, 1, 0, 0)))
    neighbors = model(pixel_values, output_neighbors=True).label_neighbors
    assert [n is None for n in neighbors] == [True, False, True, True]


def test_hidden_states_are_stem_and_stages(model, pixel_values):
    states = model(pixel_values, output_hidden_states=True).hidden_states
    assert [tuple(s.shape[1:]) for s in states] == [(16, 16, 16), (16, 16, 16), (24, 8, 8), (40, 4, 4), (48, 2, 2)]


def test_the_former_name_of_output_neighbors_is_an_error(model, pixel_values):
    for network in (model, model.gkgnet):
        with pytest.raises(TypeError, match="output_label_neighbors is now output_neighbors"):
            network(pixel_values, output_label_neighbors=True)


def test_tuples_on_request(model, pixel_values):
    logits = model(pixel_values, return_dict=False)[0]
    torch.testing.assert_close(logits, model(pixel_values).logits)


def test_multi_label_loss_ignores_unknown_labels(model, pixel_values):
    labels = torch.tensor([[1.0, 0, 1, 0, 1], [0, 0, 0, 1, 1]])
    known = model(pixel_values, labels=labels).loss
    with_nan, with_minus_one = labels.clone(), labels.clone()
    with_nan[0, 2], with_minus_one[0, 2] = torch.nan, -1
    a, b = model(pixel_values, labels=with_nan).loss, model(pixel_values, labels=with_minus_one).loss
    assert a == b
    assert a < known
    assert model(pixel_values, labels=torch.full_like(labels, -1)).loss == 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool])
@pytest.mark.parametrize("problem_type", ["multi_label_classification", "single_label_classification"])
def test_class_ids_mean_one_label_an_image(pixel_values, problem_type, dtype):
    model = GKGNetForImageClassification(small_config(problem_type=problem_type)).eval()
    ids = torch.tensor([1, 0], dtype=dtype)
    one_hot = torch.nn.functional.one_hot(ids.long(), NUM_LABELS)
    assert model(pixel_values, labels=ids).loss == model(pixel_values, labels=one_hot).loss


def test_one_label_is_there_or_not(pixel_values):
    model = GKGNetForImageClassification(small_config(num_labels=1)).eval()
    loss = model(pixel_values, labels=torch.tensor([1, 0])).loss
    assert loss == model(pixel_values, labels=torch.tensor([[1.0], [0.0]])).loss


def test_frozen_batch_norms_train_on_one_image(model, pixel_values):
    model.train()
    with pytest.raises(ValueError, match="Batch norm cannot train on one image"):
        model(pixel_values[:1, :, :32, :32])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    model(pixel_values[:1, :, :32, :32], labels=torch.zeros(1, NUM_LABELS)).loss.backward()
    assert model.patch_classifier.weight.grad.isfinite().all()


@pytest.mark.parametrize("labels", [torch.zeros(2, 3), torch.tensor([0.0, 1.0]), torch.tensor([0, 5])])
def test_wrong_class_ids_are_one_clear_error(pixel_values, labels):
    model = GKGNetForImageClassification(small_config(problem_type="single_label_classification"))
    with pytest.raises(ValueError, match=r"class ids must be .*got"):
        model(pixel_values, labels=labels)


def test_single_label_problems_train_with_cross_entropy(pixel_values):
    model = GKGNetForImageClassification(small_config(problem_type="single_label_classification")).eval()
    ids = torch.tensor([3, 0])
    rows = torch.nn.functional.one_hot(ids, NUM_LABELS)
    for labels in (ids, rows, rows.float()):
        outputs = model(pixel_values, labels=labels)
        assert outputs.loss == torch.nn.functional.cross_entropy(outputs.logits, ids)


@pytest.mark.parametrize("count", [0, 2])
def test_single_label_problems_need_one_label_an_image(pixel_values, count):
    model = GKGNetForImageClassification(small_config(problem_type="single_label_classification"))
    labels = torch.eye(2, NUM_LABELS)
    labels[1] = torch.arange(NUM_LABELS) < count
    with pytest.raises(ValueError, match=f"exactly one label with problem_type=.*, image 1 of the batch has {count}"):
        model(pixel_values, labels=labels)


def test_regression_trains_with_the_squared_error(pixel_values):
    model = GKGNetForImageClassification(small_config(problem_type="regression")).eval()
    values = torch.randn(2, NUM_LABELS)
    outputs = model(pixel_values, labels=values)
    assert outputs.loss == torch.nn.functional.mse_loss(outputs.logits, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_regression_of_one_label_takes_one_number_an_image(pixel_values, dtype):
    model = GKGNetForImageClassification(small_config(problem_type="regression", num_labels=1)).eval()
    values = torch.tensor([3, -2], dtype=dtype)
    outputs = model(pixel_values, labels=values)
    assert outputs.loss == model(pixel_values, labels=values[:, None]).loss
    torch.testing.assert_close(outputs.loss, (outputs.logits[:, 0] - values).square().mean())


@pytest.mark.parametrize(
    ("num_labels", "labels", "message"),
    [
        (NUM_LABELS, torch.zeros(NUM_LABELS), r"\(2, 5\).*\(5,\)"),
        (NUM_LABELS, torch.zeros(1, NUM_LABELS), r"\(2, 5\).*\(1, 5\)"),
        (NUM_LABELS, torch.zeros(2, 1), r"\(2, 5\).*\(2, 1\)"),
        (1, torch.zeros(1), r"\(2, 1\).*\(1, 1\)"),
        (2, torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), "finite numbers .*, got nan"),
    ],
)
def test_wrong_numbers_are_one_clear_error(pixel_values, num_labels, labels, message):
    model = GKGNetForImageClassification(small_config(problem_type="regression", num_labels=num_labels))
    with pytest.raises(ValueError, match=message):
        model(pixel_values, labels=labels)


def test_another_label_count_keeps_the_rest(model, tmp_path):
    model.save_pretrained(tmp_path)
    other = GKGNetForImageClassification.from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True)
    assert other(torch.randn(1, 3, 64, 64)).logits.shape == (1, 9)
    for name, tensor in other.state_dict().items():
        if "label_embedding" not in name and "classifier" not in name:
            assert torch.equal(tensor, model.state_dict()[name]), name
    assert other.gkgnet.label_embedding.weight.std() > 0.5


class WithLayersOfItsOwn(GKGNetForImageClassification):
    """A subclass whose layers no saved file has."""

    def __init__(self, config):
        super().__init__(config)
        self.norm = torch.nn.LayerNorm(6)
        self.convolution = torch.nn.Conv2d(6, 6, 3, bias=False)
        self.linear = torch.nn.Linear(60, 60, bias=False)
        self.embedding = torch.nn.Embedding(60, 60, padding_idx=0)
        self.attention = torch.nn.MultiheadAttention(60, 2)
        self.post_init()


def test_the_new_layers_of_a_subclass_are_initialised_when_it_loads(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = WithLayersOfItsOwn.from_pretrained(tmp_path)
    assert (loaded.norm.weight == 1).all()
    assert (loaded.norm.bias == 0).all()
    deviations = [m.weight.std().item() for m in (loaded.convolution, loaded.linear, loaded.embedding)]
    assert deviations == pytest.approx([model.config.initializer_range] * 3, rel=0.3)
    assert (loaded.embedding.weight[0] == 0).all()
    assert 0.05 < loaded.attention.in_proj_weight.std() < 0.2  # Xavier


def test_from_pretrained_takes_dtype_and_device_map(model, tmp_path):
    model.save_pretrained(tmp_path)
    half = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu")
    assert all(p.dtype == torch.bfloat16 for p in half.parameters())
    assert half(torch.randn(1, 3, 64, 64)).logits.dtype == torch.bfloat16


def test_meta_device_construction_and_forward():
    with torch.device("meta"):
        model = GKGNetForImageClassification(GKGNetConfig.from_variant("b", image_size=576, num_labels=80))
        logits = model(torch.empty(2, 3, 576, 576)).logits
    assert logits.shape == (2, 80)
    assert logits.device.type == "meta"


def test_a_new_classifier_is_small_and_label_nodes_are_not(model):
    assert model.patch_classifier.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert model.label_classifier.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert model.gkgnet.label_embedding.weight.std().item() == pytest.approx(1, rel=0.3)
    assert model.gkgnet.backbone.stem.pos_embed.abs().max() == 0
    conv = model.gkgnet.backbone.stages[3].blocks[0].ffn.fc1.conv
    assert conv.weight.std().item() == pytest.approx((2 / 48) ** 0.5, rel=0.1)
    assert conv.bias.abs().max() == 0


@pytest.mark.parametrize("model_class", [GKGNetModel, GKGNetForImageClassification, GKGNetBackbone])
@pytest.mark.parametrize(
    ("image", "came"),
    [
        (torch.zeros(3, 64, 64), r"\(3, 64, 64\)"),
        (torch.zeros(1, 1, 64, 64), r"\(1, 1, 64, 64\)"),
        (torch.zeros(1, 3, 64, 16), r"\(1, 3, 64, 16\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "uint8"),
    ],
)
def test_a_wrong_image_is_one_clear_error(model_class, image, came):
    with pytest.raises(ValueError, match=rf"\(batch, 3, height, width\).*{came}"):
        model_class(small_config())(image)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, NUM_LABELS + 1), r"\(2, 5\).*\(2, 6\)"),
        (torch.zeros(3, NUM_LABELS), r"\(2, 5\).*\(3, 5\)"),
        (torch.zeros(NUM_LABELS), r"\(2, 5\).*\(5,\)"),
        (torch.tensor([[0, 0, 0, 0, 0], [0, 0, 2.0, 0, 0]]), "got 2 for image 1, label 2"),
        (torch.tensor([1, 7]), "got 7"),
        (torch.tensor([-1, 2]), "got -1"),
    ],
)
def test_wrong_labels_are_one_clear_error(model, pixel_values, labels, message):
    with pytest.raises(ValueError, match=message):
        model(pixel_values, labels=labels)
