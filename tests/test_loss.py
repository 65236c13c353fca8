import copy
import math
from inspect import signature
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification
from gkgnet_hf.modeling.modeling_gkgnet import LOSS_FIELDS, LOSSES, loss_settings, multi_label_loss
from gkgnet_hf.predict import load_model
from gkgnet_hf.training import MultiLabelLoss, create_model, read_recipe
from gkgnet_hf.training.arguments import ModelArguments

from .test_models import small_config
from .test_trainer import build_trainer

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 4.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)


def by_hand(name, logit, label):
    """The loss of one label in its paper's terms; p is the score, y whether the label counts as there."""
    p, y = 1 / (1 + math.exp(-logit)), label == 1
    if name == "bce":  # cross-entropy
        return -math.log(p) if y else -math.log(1 - p)
    if name == "focal":  # https://arxiv.org/abs/1708.02002, eq. 4, γ = 2
        return -((1 - p) ** 2) * math.log(p) if y else -(p**2) * math.log(1 - p)
    if name == "asymmetric":  # https://arxiv.org/abs/2009.14119, eq. 7, γ+ = 0, γ− = 4, m = 0.05
        shifted = max(p - 0.05, 0)
        return -math.log(p) if y else -(shifted**4) * math.log(1 - shifted)
    if name == "paper":  # https://arxiv.org/abs/2308.14378: γ− = 2, and smoothed cross-entropy
        shifted = max(p - 0.05, 0)
        asymmetric = -math.log(p) if y else -(shifted**2) * math.log(1 - shifted)
        target = 0.9 if y else 0.1
        return 10 * asymmetric - target * math.log(p) - (1 - target) * math.log(1 - p)
    shifted = 1 / (1 + math.exp(1 - logit))  # https://arxiv.org/abs/2112.07368: focal margin loss, m = 1, γ = 2
    if y or (name == "splc" and p > 0.6):
        return -((1 - shifted) ** 2) * math.log(shifted)
    return (1.5 - p) * p**2 if name == "hill" else -(p**2) * math.log(1 - p)


def random_batch():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, 2, (6, 5), generator=generator).double()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_by_name_is_its_formula(name):
    logits, labels = random_batch()
    pairs = zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True)
    expected = sum(by_hand(name, *pair) for pair in pairs) / len(logits)
    torch.testing.assert_close(MultiLabelLoss(name)(logits, labels).item(), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_loss_by_name_is_right(name):
    logits, labels = random_batch()
    assert torch.autograd.gradcheck(lambda x: MultiLabelLoss(name)(x, labels), logits)


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_labels_add_nothing_to_a_loss_by_name(name):
    logits, labels = random_batch()
    unknown = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    partly = labels.where(~unknown, torch.nan)
    partly[0] = partly[0].nan_to_num(-1)
    loss = MultiLabelLoss(name)(logits, partly)
    loss.backward()
    assert (logits.grad[unknown] == 0).all()
    pairs = zip(logits[~unknown].tolist(), labels[~unknown].tolist(), strict=True)
    expected = sum(by_hand(name, *pair) for pair in pairs) / len(logits)
    torch.testing.assert_close(loss.item(), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_leave_a_loss_by_name_finite(name):
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    loss = MultiLabelLoss(name)(logits, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_hill_and_splc_forgive_a_label_that_is_surely_missing():
    def pull(name):
        logit = torch.tensor([[5.0]], requires_grad=True)
        MultiLabelLoss(name)(logit, torch.zeros(1, 1)).backward()
        return logit.grad.item()

    assert pull("focal") > 1
    assert 0 < pull("hill") < 0.02
    assert pull("splc") < 0


def test_an_evaluation_takes_the_labels_as_they_are():
    logits, labels = random_batch()
    as_given = MultiLabelLoss("splc", correction_threshold=1.0)(logits, labels)
    torch.testing.assert_close(MultiLabelLoss("splc")(logits.detach(), labels), as_given.detach())
    assert MultiLabelLoss("splc")(logits, labels) != as_given


def test_a_constant_wins_over_the_name():
    loss = MultiLabelLoss("asymmetric", gamma_negative=2.0)
    torch.testing.assert_close(10 * loss(LOGITS, LABELS), MultiLabelLoss(smoothed_loss_weight=0)(LOGITS, LABELS))


def test_another_name_is_an_error_that_lists_the_names(tmp_path):
    message = "loss must be one of paper, asymmetric, bce, focal, hill, splc, got 'dice'"
    with pytest.raises(ValueError, match=message):
        MultiLabelLoss("dice")
    with pytest.raises(ValueError, match=message):
        create_model(["cat", "dog"], "ti", loss="dice")
    with pytest.raises(ValueError, match=r"loss: invalid choice: 'dice' .*paper.*asymmetric.*bce.*focal.*hill.*splc"):
        read_recipe(["digits", "--loss", "dice"])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: photos\nloss: dice\n")
    with pytest.raises(ValueError, match="loss: invalid choice: 'dice'"):
        read_recipe([str(recipe)])


def test_command_and_recipe_know_every_loss(tmp_path):
    (choices, _) = get_args(get_type_hints(ModelArguments)["loss"])
    assert get_args(choices) == tuple(LOSSES)
    assert read_recipe(["digits"]).model.loss is None
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: photos\noutput_dir: out\nloss: splc\n")
    assert read_recipe([str(recipe)]).model.loss == "splc"
    assert read_recipe([str(recipe), "--loss", "hill"]).model.loss == "hill"
    assert read_recipe([str(recipe), "--loss", "null"]).model.loss is None


@pytest.mark.parametrize("name", LOSSES)
def test_a_saved_model_keeps_its_loss(name, tmp_path):
    shape = dict(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], image_size=64)
    create_model(["cat", "dog", "cow"], "ti", loss=name, **shape).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path)).train()
    again = create_model(["cat", "dog", "cow"], str(tmp_path))  # without a loss of its own
    for model in (loaded, again):
        assert {field: getattr(model.config, field) for field in LOSS_FIELDS} == loss_settings(name)
    outputs = loaded(torch.randn(4, 3, 64, 64), labels=LABELS[:1].expand(4, -1))
    torch.testing.assert_close(outputs.loss, MultiLabelLoss(name)(outputs, LABELS[:1].expand(4, -1)))
    other = create_model(["cat", "dog", "cow"], str(tmp_path), loss="bce", label_smoothing=0.2)
    assert {field: getattr(other.config, field) for field in LOSS_FIELDS} == {
        **loss_settings("bce"),
        "label_smoothing": 0.2,
    }


def test_a_loss_beside_another_problem_type_is_an_error():
    with pytest.raises(ValueError, match="loss hill is for several labels an image, problem_type is regression"):
        create_model(["cat", "dog"], "ti", loss="hill", problem_type="regression")


@pytest.mark.parametrize("passed", [False, True])
def test_the_trainer_corrects_labels_from_the_second_epoch_on(passed, tmp_path):
    class Watch(TrainerCallback):
        def __init__(self):
            self.corrected = {}

        def on_step_end(self, args, state, control, model=None, **kwargs):
            part = trainer.compute_loss_func if passed else model
            self.corrected[state.global_step] = part.corrects_labels

    loss = MultiLabelLoss("splc") if passed else None
    for resume in (None, str(tmp_path / "checkpoint-4")):  # epochs of five steps
        watch = Watch()
        trainer = build_trainer(tmp_path, callbacks=[watch], max_steps=12, compute_loss_func=loss)
        trainer.train(resume_from_checkpoint=resume)
        assert watch.corrected == {step: step > 5 for step in range(5 if resume else 1, 13)}
        assert (trainer.compute_loss_func if passed else trainer.model).corrects_labels


def test_a_model_in_its_first_epoch_takes_the_labels_as_they_are():
    model = GKGNetForImageClassification(small_config(num_labels=3, **loss_settings("splc")))
    torch.nn.init.constant_(model.patch_classifier.bias, 2.0)  # scores above the threshold
    corrected = copy.deepcopy(model)
    model.corrects_labels = False
    images, labels = torch.randn(4, 3, 64, 64), torch.zeros(4, 3)
    assert model(images, labels=labels).loss > corrected(images, labels=labels).loss


def test_cross_entropy_falls_out():
    loss = MultiLabelLoss(asymmetric_loss_weight=0, label_smoothing=0)(LOGITS, LABELS)
    expected = F.binary_cross_entropy_with_logits(LOGITS, LABELS, reduction="none").sum(1).mean()
    torch.testing.assert_close(loss, expected)


def test_focal_loss_falls_out():
    loss = MultiLabelLoss(
        asymmetric_loss_weight=1, smoothed_loss_weight=0, gamma_positive=2, gamma_negative=2, probability_margin=0
    )(LOGITS, LABELS)
    p = torch.where(LABELS == 1, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    torch.testing.assert_close(loss, (-((1 - p) ** 2) * p.log()).sum(1).mean())


def test_asymmetric_loss_by_hand():
    loss = MultiLabelLoss(asymmetric_loss_weight=1, smoothed_loss_weight=0)(LOGITS[:1, :2], LABELS[:1, :2])
    p = LOGITS[0, :2].sigmoid()
    q = 1 - p[1] + 0.05
    torch.testing.assert_close(loss, -p[0].log() - q.log() * (1 - q) ** 2)


def test_negatives_within_the_margin_cost_nothing():
    loss = MultiLabelLoss(smoothed_loss_weight=0)
    assert loss(torch.tensor([[-4.0]]), torch.zeros(1, 1)) == 0


def test_unknown_labels_have_no_gradient_and_label_weights_scale():
    logits = LOGITS.clone().requires_grad_()
    labels = LABELS.clone()
    labels[0, 1], labels[1, 2] = -1, torch.nan
    weighted = MultiLabelLoss(label_weights=torch.tensor([2.0, 0.0, 1.0]))(logits, labels)
    weighted.backward()
    assert logits.grad[0, 1] == logits.grad[1, 2] == logits.grad[1, 1] == 0
    assert (logits.grad[:, 0] != 0).all()
    twice = MultiLabelLoss(label_weights=torch.full((3,), 2.0))(LOGITS, LABELS)
    torch.testing.assert_close(twice, 2 * MultiLabelLoss()(LOGITS, LABELS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_half_precision_logits_stay_finite(dtype):
    logits = torch.tensor([[60000.0, -60000.0, 0.0, 20.0]]).to(dtype).requires_grad_()
    loss = MultiLabelLoss()(logits, torch.tensor([[0.0, 1.0, 1.0, 1.0]]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_a_focus_below_one_has_a_finite_gradient():
    logits = torch.tensor([[30.0, -30.0]], requires_grad=True)
    MultiLabelLoss(gamma_positive=0.5, gamma_negative=0.5)(logits, torch.tensor([[1.0, 0.0]])).backward()
    assert logits.grad.isfinite().all()


def test_gradient_is_right():
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: MultiLabelLoss(gamma_positive=1.0)(x, LABELS), logits)


def test_the_configuration_describes_the_loss():
    model = GKGNetForImageClassification(small_config(num_labels=3, asymmetric_loss_weight=3.0, label_smoothing=0.2))
    outputs = model(torch.randn(4, 3, 64, 64), labels=LABELS[:1].expand(4, -1))
    expected = MultiLabelLoss(asymmetric_loss_weight=3.0, label_smoothing=0.2)(outputs, LABELS[:1].expand(4, -1))
    torch.testing.assert_close(outputs.loss, expected)


def test_every_constant_of_the_loss_has_one_default():
    constants = {name: p.default for name, p in signature(multi_label_loss).parameters.items() if name in LOSS_FIELDS}
    config = GKGNetConfig()
    assert constants == {name: getattr(config, name) for name in LOSS_FIELDS}


def test_a_setting_that_the_loss_does_not_have_is_an_error():
    with pytest.raises(TypeError, match="gamma is no setting of the loss; it has asymmetric_loss_weight, gamma_pos"):
        MultiLabelLoss(gamma=2)
