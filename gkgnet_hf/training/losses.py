"""The multi-label loss as a module; the mathematics is in `gkgnet_hf.modeling.modeling_gkgnet`."""

from torch import Tensor, nn

from ..modeling.configuration_gkgnet import GKGNetConfig
from ..modeling.modeling_gkgnet import multi_label_loss


class MultiLabelLoss(nn.Module):
    """Asymmetric loss plus label-smoothed cross-entropy, summed over labels, averaged over the batch.

    Args:
        asymmetric_loss_weight, gamma_positive, gamma_negative, probability_margin, smoothed_loss_weight,
            label_smoothing: as in `multi_label_loss`; the defaults are the paper's.
        label_weights: (L,) factor of each label's loss.

    >>> import torch
    >>> loss = MultiLabelLoss(asymmetric_loss_weight=0, label_smoothing=0)  # binary cross-entropy
    >>> round(loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item(), 4)
    1.3863
    """

    def __init__(
        self,
        asymmetric_loss_weight: float = 10.0,
        gamma_positive: float = 0.0,
        gamma_negative: float = 2.0,
        probability_margin: float = 0.05,
        smoothed_loss_weight: float = 1.0,
        label_smoothing: float = 0.1,
        label_weights: Tensor | None = None,
    ):
        super().__init__()
        self.settings = {
            "asymmetric_loss_weight": asymmetric_loss_weight,
            "gamma_positive": gamma_positive,
            "gamma_negative": gamma_negative,
            "probability_margin": probability_margin,
            "smoothed_loss_weight": smoothed_loss_weight,
            "label_smoothing": label_smoothing,
        }
        self.label_weights: Tensor | None
        self.register_buffer("label_weights", label_weights)

    @classmethod
    def from_config(cls, config: GKGNetConfig) -> "MultiLabelLoss":
        """The loss that a model's configuration describes."""
        return cls(**{name: getattr(config, name) for name in cls().settings})

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, L) and labels (B, L) of 1, 0, and −1 or NaN for unknown → scalar."""
        return multi_label_loss(logits, labels, label_weights=self.label_weights, **self.settings)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())
