"""Heads of other papers on the patch nodes of this one, written from their papers and as small as they allow.

Each is `backbone(images)` → feature map (B, C, h, w), then a head; forward takes images (B, 3, H, W) and gives logits
(B, L).
"""

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from gkgnet_hf.modeling.modeling_gkgnet import LabelClassifier

WIDTH = 128  # of the transformers; about the parameters that label nodes take
NUM_HEADS = 4
HIDDEN = 256


class LinearHead(nn.Module):
    """Global average and one linear layer."""

    def __init__(self, backbone: nn.Module, num_channels: int, num_labels: int):
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(num_channels, num_labels)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) → (B, L)."""
        return self.classifier(self.backbone(images).mean((2, 3)))


class Query2Label(nn.Module):
    """Query2Label (arXiv 2107.10834, section 3): each label is a query of a transformer decoder over the feature map.

    One encoder and two decoder layers, as the paper's experiments have, a sine position code that is added to the
    patches once, and for each label a row of weights (its group-wise linear projection).
    """

    def __init__(self, backbone: nn.Module, num_channels: int, num_labels: int):
        super().__init__()
        self.backbone = backbone
        self.project = nn.Conv2d(num_channels, WIDTH, 1)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, NUM_HEADS, HIDDEN, batch_first=True)
        layers = [nn.TransformerDecoderLayer(WIDTH, NUM_HEADS, HIDDEN, batch_first=True) for _ in range(2)]
        self.decoder = nn.ModuleList(layers)
        self.label_embed = nn.Embedding(num_labels, WIDTH)
        self.classifier = _rows(num_labels)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) → (B, L)."""
        patches = self.encoder(_patches(self.project(self.backbone(images))))
        queries = self.label_embed.weight.expand(len(images), -1, -1)  # (B, L, WIDTH)
        for layer in self.decoder:
            queries = layer(queries, patches)
        return self.classifier(queries)


class CTran(nn.Module):
    """C-Tran (arXiv 2011.14027, section 3): patches and labels are one sequence of a transformer encoder of 3 layers.

    The patches have a sine position code, as Query2Label's. A label's embedding is added to that of its state: unknown,
    negative or positive. In training the states of a random part of the labels are given, at most three quarters, and
    the loss counts on the others (label mask training). With `labels` in training, forward returns the logits and where
    the loss counts, (B, L) bool. Otherwise no state is known.
    """

    def __init__(self, backbone: nn.Module, num_channels: int, num_labels: int):
        super().__init__()
        self.backbone = backbone
        self.project = nn.Conv2d(num_channels, WIDTH, 1)
        layers = [nn.TransformerEncoderLayer(WIDTH, NUM_HEADS, HIDDEN, batch_first=True) for _ in range(3)]
        self.encoder = nn.Sequential(*layers)
        self.label_embed = nn.Embedding(num_labels, WIDTH)
        self.state_embed = nn.Embedding(3, WIDTH, padding_idx=0)  # unknown, which adds nothing; negative; positive
        self.classifier = _rows(num_labels)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 3, H, W) → (B, L), and in training with labels where the loss counts."""
        patches = _patches(self.project(self.backbone(images)))
        num_labels = self.label_embed.num_embeddings
        states = torch.zeros(len(images), num_labels, dtype=torch.long, device=images.device)
        hidden = None
        if self.training and labels is not None:
            hidden = draw_hidden(labels)
            states = torch.where(hidden, states, 1 + (labels == 1).long())
        nodes = self.label_embed.weight + self.state_embed(states)  # (B, L, WIDTH)
        encoded = self.encoder(torch.cat([patches, nodes], 1))
        logits = self.classifier(encoded[:, -num_labels:])
        return logits if hidden is None else (logits, hidden)


def draw_hidden(labels: Tensor) -> Tensor:
    """Which labels of each image are not told, (B, L) bool: of the known ones a quarter or more, all if chance wills;
    and those that nobody knows."""
    num_images, num_labels = labels.shape
    fewest = -(-num_labels // 4)
    counts = torch.randint(fewest, num_labels + 1, (num_images, 1), device=labels.device)
    ranks = torch.rand(labels.shape, device=labels.device).argsort(1).argsort(1)
    return (ranks < counts) | (labels < 0)


def _patches(feature_map: Tensor) -> Tensor:
    """(B, WIDTH, h, w) → (B, h·w, WIDTH) with a sine code of the position added."""
    code = build_sincos2d_pos_embed(list(feature_map.shape[2:]), WIDTH, device=feature_map.device)
    return feature_map.flatten(2).transpose(1, 2) + code.to(feature_map.dtype)


def _rows(num_labels: int) -> LabelClassifier:
    classifier = LabelClassifier(num_labels, WIDTH)
    nn.init.trunc_normal_(classifier.weight, std=WIDTH**-0.5)
    return classifier
