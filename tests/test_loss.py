from inspect import signature

import pytest
import torch
import torch.nn.functional as F

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification
from gkgnet_hf.modeling.modeling_gkgnet import LOSS_FIELDS, multi_label_loss
from gkgnet_hf.training import MultiLabelLoss

from .test_models import small_config

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 4.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)


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
