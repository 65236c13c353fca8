"""The paper's multi-label loss as a function on tensors; `gkgnet_hf.training.MultiLabelLoss` is its module."""

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST_PROBABILITY = 1e-8


def multi_label_loss(
    logits: Tensor,
    labels: Tensor,
    asymmetric_loss_weight: float = 10.0,
    gamma_positive: float = 0.0,
    gamma_negative: float = 2.0,
    probability_margin: float = 0.05,
    smoothed_loss_weight: float = 1.0,
    label_smoothing: float = 0.1,
    label_weights: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss and label-smoothed cross-entropy, summed over labels, averaged over the batch.

    With p = sigmoid(logit), and q = p for a label that is there, q = min(1 − p + margin, 1) for one that is not,
    the asymmetric loss is −log(max(q, 1e-8)) · (1 − q)^γ (https://arxiv.org/abs/2009.14119). Weights (0, 1) and
    ε = 0 leave plain binary cross-entropy; weights (1, 0) and equal γ without margin leave focal loss.

    Args:
        logits: (B, L), any floating dtype; the loss is computed in float32 at least.
        labels: (B, L); 1 for a label that is there, 0 for one that is not, −1 or NaN for unknown: it costs nothing.
        asymmetric_loss_weight: factor of the asymmetric loss.
        gamma_positive, gamma_negative: its focusing exponents γ.
        probability_margin: its margin for labels that are not there.
        smoothed_loss_weight: factor of the cross-entropy against smoothed labels.
        label_smoothing: ε; the smoothed targets are 1 − ε and ε.
        label_weights: (L,) factor of each label's loss.

    Returns:
        Scalar.

    Raises:
        ValueError: for labels of another shape than the logits, or with other values.

    >>> loss = multi_label_loss(torch.tensor([[4.0, -4.0, 0.0]]), torch.tensor([[1.0, 0.0, -1.0]]))
    >>> round(loss.item(), 4)
    1.0178
    """
    check_labels(logits, labels)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits)
    known = ~(labels.isnan() | (labels == -1))
    present = labels == 1

    probabilities = logits.sigmoid()
    negatives = (1 - probabilities + probability_margin).clamp(max=1)
    q = torch.where(present, probabilities, negatives)
    focus = torch.where(present, _power(1 - q, gamma_positive), _power(1 - q, gamma_negative))
    asymmetric = -q.clamp(min=LOWEST_PROBABILITY).log() * focus

    smoothed_targets = torch.where(present, 1 - label_smoothing, label_smoothing)  # float32, as in the released loss
    smoothed = F.binary_cross_entropy_with_logits(logits, smoothed_targets.to(logits), reduction="none")

    loss = asymmetric_loss_weight * asymmetric + smoothed_loss_weight * smoothed  # (B, L)
    if label_weights is not None:
        loss = loss * label_weights.to(loss)
    return torch.where(known, loss, 0).sum(1).mean()


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless `labels` is (B, L) like `logits`, of values 0, 1, −1 or NaN."""
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must be (batch, labels) = {tuple(logits.shape)} like the logits, got {tuple(labels.shape)}"
        )
    if not _has_values(labels):
        return
    valid = (labels == 0) | (labels == 1) | (labels == -1) | labels.isnan()
    if not valid.all():
        row, column = (~valid).nonzero()[0].tolist()
        raise ValueError(
            "labels must be 1 (there), 0 (not there), -1 or NaN (unknown), "
            f"got {labels[row, column].item():g} for image {row}, label {column}"
        )


def one_hot(class_ids: Tensor, num_labels: int) -> Tensor:
    """Class ids (B,) of images with one label each → labels (B, num_labels); ValueError for an id out of range."""
    check_class_ids(class_ids, num_labels)
    return F.one_hot(class_ids, num_labels)


def check_class_ids(class_ids: Tensor, num_labels: int) -> None:
    """Raise ValueError unless `class_ids` is (B,) of integers from 0 to num_labels − 1."""
    if class_ids.ndim != 1 or class_ids.is_floating_point():
        raise ValueError(
            f"class ids must be integers of shape (batch,), got {class_ids.dtype} of shape {tuple(class_ids.shape)}"
        )
    if _has_values(class_ids):
        out_of_range = class_ids[(class_ids < 0) | (class_ids >= num_labels)]
        if out_of_range.numel():
            raise ValueError(f"class ids must be from 0 to {num_labels - 1}, got {out_of_range[0].item()}")


def _has_values(labels: Tensor) -> bool:
    """False while a graph is traced and on the meta device."""
    return not torch.compiler.is_compiling() and not labels.is_meta


def _power(base: Tensor, exponent: float) -> Tensor:
    # The gradient of a power below 1 is infinite at 0.
    return base.clamp(min=LOWEST_PROBABILITY) ** exponent
