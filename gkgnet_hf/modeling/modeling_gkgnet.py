"""GKGNet for transformers: patch and label nodes in one graph, in the order of section 3 of its paper.

The cross-level module, the label nodes of a stage, the classifier and the loss come first; the classes of transformers
stand behind them. The patch nodes are in `vision_gnn`, eq. 1 is in `group_knn`. Shapes: B images, L labels, C channels.

Paper: GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition,
https://arxiv.org/abs/2308.14378.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_gkgnet import GKGNetConfig
from .group_knn import find_neighbors, max_relative
from .vision_gnn import (
    Block,
    FeedForward,
    GroupKGCN,
    PyramidVisionGNN,
    Stem,
    block_drop_paths,
    checkpoint_block,
    init_weights,
)


class LabelGroupKGCN(GroupKGCN):
    """Cross-level Group KGCN: every label gathers from the patches nearest to it."""

    def forward(self, labels: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, C, 1, L) and patches (B, C, H, W) → labels and neighbours (B, G, L, K), row-major positions."""
        h = self.fc1(labels)
        destinations = self.split_groups(h)
        sources = self.split_groups(patches)
        neighbors = find_neighbors(destinations.detach(), sources.detach(), self.num_neighbors)
        messages = self.merge_groups(max_relative(destinations, sources, neighbors), h)
        return self.update(labels, h, messages), neighbors


class CountsOnce(nn.Module):
    """Lets transformers' gradient checkpointing recompute a block without a second count of its batch norms."""

    def __setattr__(self, name: str, value: Any) -> None:
        # transformers sets this function in all blocks, whatever model they are part of.
        if name == "_gradient_checkpointing_func":
            value = partial(checkpoint_block, value, self)
        super().__setattr__(name, value)


class LabelBlock(CountsOnce, GradientCheckpointingLayer):
    """Cross-level Group KGCN, then feed-forward, on label nodes."""

    def __init__(self, config: GKGNetConfig, dim: int, drop_path: float):
        super().__init__()
        self.graph = LabelGroupKGCN(dim, config.num_label_neighbors, config.num_label_groups, drop_path)
        self.ffn = FeedForward(dim, config.mlp_ratio, drop_path)

    def forward(self, labels: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, C, 1, L) and patches (B, C, H, W) → labels, neighbours (B, G, L, K)."""
        labels, neighbors = self.graph(labels, patches)
        return self.ffn(labels), neighbors


class LabelProjection(nn.Linear):
    """Label nodes (B, L, C_i) → (B, L, C_{i+1}); initialised as PyTorch does, unlike the classifier."""


class LabelStage(nn.Module):
    """What happens to the label nodes at one stage: a linear map to its width, then its cross-level blocks."""

    def __init__(self, config: GKGNetConfig, index: int, drop_path: float):
        super().__init__()
        dim = config.hidden_sizes[index]
        self.projection = LabelProjection(config.hidden_sizes[index - 1], dim) if index > 0 else nn.Identity()
        self.blocks = nn.ModuleList(LabelBlock(config, dim, drop_path) for _ in range(config.num_label_blocks[index]))

    def forward(self, labels: Tensor, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Labels (B, L, C_in) and patches (B, C, H, W) → labels (B, L, C), neighbours of the last block."""
        # Not (B, C, L, 1): batch norm on CPU misreads gradients of that shape that come from a transpose.
        labels = self.projection(labels).transpose(1, 2).unsqueeze(2)  # (B, C, 1, L)
        neighbors = None
        for block in self.blocks:
            labels, neighbors = by_label_bands(block, labels, patches)
        return labels.squeeze(2).transpose(1, 2), neighbors


# Label nodes, of all images of a batch, that a block outside training takes at a time.
CPU_LABEL_BAND = 1 << 12
DEVICE_LABEL_BAND = 1 << 16


def by_label_bands(block: nn.Module, labels: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """`block(labels, patches)`; outside training some labels at a time, so that memory is bounded for any number.

    In training the labels of a batch share the statistics of batch norm.
    """
    num_labels = labels.shape[3]
    step = CPU_LABEL_BAND if labels.device.type == "cpu" else DEVICE_LABEL_BAND
    step = max(1, step // max(1, labels.shape[0]))
    # A graph that is recorded may be for any number of images.
    if block.training or num_labels <= step or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return block(labels, patches)
    parts = [block(labels[..., first : first + step], patches) for first in range(0, num_labels, step)]
    return torch.cat([part[0] for part in parts], 3), torch.cat([part[1] for part in parts], 2)


class LabelClassifier(nn.Module):
    """One score a label: w_l · label node l + a_l."""

    def __init__(self, num_labels: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_labels, dim))
        self.bias = nn.Parameter(torch.zeros(num_labels))

    def forward(self, labels: Tensor) -> Tensor:
        """(B, L, C) → (B, L)."""
        return (labels * self.weight).sum(-1) + self.bias


def multi_label_loss(
    logits: Tensor,
    labels: Tensor,
    asymmetric_loss_weight: float = 10.0,
    gamma_positive: float = 0.0,
    gamma_negative: float = 2.0,
    probability_margin: float = 0.05,
    logit_margin: float = 0.0,
    hill_lambda: float = 0.0,
    correction_threshold: float = 1.0,
    smoothed_loss_weight: float = 1.0,
    label_smoothing: float = 0.1,
    label_weights: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss and label-smoothed cross-entropy, summed over labels, averaged over the batch.

    With p = sigmoid(logit), and q = p for a positive label, q = min(1 − p + margin, 1) for a negative one,
    the asymmetric loss is −log(max(q, 1e-8)) · (1 − q)^γ (https://arxiv.org/abs/2009.14119). `LOSSES` has the
    constants of other losses. Logit margin, Hill loss and correction are for data in which positive labels are missing
    (https://arxiv.org/abs/2112.07368).

    Args:
        logits: (B, L), any floating dtype; the loss is computed in float32 at least.
        labels: (B, L); 1 is positive, 0 is negative, −1 or NaN is unknown and adds nothing to the loss. Or, with two
            labels or more, class ids (B,) of images with one label each.
        asymmetric_loss_weight: factor of the asymmetric loss.
        gamma_positive, gamma_negative: its focusing exponents γ.
        probability_margin: its margin for negative labels.
        logit_margin: m; for a positive label p is sigmoid(logit − m), as in the focal margin loss.
        hill_lambda: λ of the Hill loss, (λ − p)·p², which takes the place of the asymmetric loss for negative labels;
            0 leaves them the asymmetric loss.
        correction_threshold: τ of self-paced loss correction: a negative label of p > τ counts as positive. 1 corrects
            none, and nothing is corrected for logits without gradient, as in evaluation.
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
    if labels.ndim == 1 and not labels.is_floating_point():
        num_labels = logits.shape[-1]
        labels = one_hot(labels, num_labels) if num_labels > 1 else labels.unsqueeze(1)
    check_labels(logits, labels)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits)
    known = ~(labels.isnan() | (labels == -1))
    present = labels == 1

    probabilities = logits.sigmoid()
    if correction_threshold < 1 and logits.requires_grad:
        present = present | (known & (probabilities > correction_threshold))
    negatives = (1 - probabilities + probability_margin).clamp(max=1)
    q = torch.where(present, (logits - logit_margin).sigmoid(), negatives)
    focus = torch.where(present, _power(1 - q, gamma_positive), _power(1 - q, gamma_negative))
    asymmetric = -q.clamp(min=LOWEST_PROBABILITY).log() * focus
    if hill_lambda:
        asymmetric = torch.where(present, asymmetric, (hill_lambda - probabilities) * probabilities**2)

    smoothed_targets = torch.where(present, 1 - label_smoothing, label_smoothing)  # float32, as in the released loss
    smoothed = F.binary_cross_entropy_with_logits(logits, smoothed_targets.to(logits), reduction="none")

    loss = asymmetric_loss_weight * asymmetric + smoothed_loss_weight * smoothed  # (B, L)
    if label_weights is not None:
        loss = loss * label_weights.to(loss)
    return torch.where(known, loss, 0).sum(1).mean()


# The constants of the loss: its arguments, and fields of the configuration with the same defaults.
LOSS_FIELDS = (
    "asymmetric_loss_weight",
    "gamma_positive",
    "gamma_negative",
    "probability_margin",
    "logit_margin",
    "hill_lambda",
    "correction_threshold",
    "smoothed_loss_weight",
    "label_smoothing",
)

_ONLY_ASYMMETRIC = {"asymmetric_loss_weight": 1.0, "smoothed_loss_weight": 0.0}
_FOCAL = {**_ONLY_ASYMMETRIC, "gamma_positive": 2.0, "gamma_negative": 2.0, "probability_margin": 0.0}

# Losses by name: the constants in which each differs from the paper's. The constants are those of the losses' papers.
LOSSES: dict[str, dict[str, float]] = {
    "paper": {},
    "asymmetric": {**_ONLY_ASYMMETRIC, "gamma_negative": 4.0},
    "bce": {"asymmetric_loss_weight": 0.0, "label_smoothing": 0.0},
    "focal": _FOCAL,
    "hill": {**_FOCAL, "logit_margin": 1.0, "hill_lambda": 1.5},
    "splc": {**_FOCAL, "logit_margin": 1.0, "correction_threshold": 0.6},
}


def loss_settings(name: str) -> dict[str, float]:
    """Every one of `LOSS_FIELDS` for a loss of `LOSSES`; ValueError for another name.

    >>> loss_settings("bce")["label_smoothing"]
    0.0
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    return {**{field: getattr(GKGNetConfig, field) for field in LOSS_FIELDS}, **LOSSES[name]}


LOWEST_PROBABILITY = 1e-8


def _power(base: Tensor, exponent: float) -> Tensor:
    # The gradient of a power below 1 is infinite at 0.
    return base.clamp(min=LOWEST_PROBABILITY) ** exponent


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless `labels` is (B, L) like `logits`, of values 0, 1, −1 or NaN."""
    _check_shape(logits, labels)
    if not _has_values(labels):
        return
    valid = (labels == 0) | (labels == 1) | (labels == -1) | labels.isnan()
    if not valid.all():
        row, column = (~valid).nonzero()[0].tolist()
        raise ValueError(
            "labels must be 1 (positive), 0 (negative), -1 or NaN (unknown), "
            f"got {labels[row, column].item():g} for image {row}, label {column}"
        )


def check_numbers(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless `labels` is (B, L) like `logits`, of finite numbers."""
    _check_shape(logits, labels)
    if _has_values(labels) and (others := labels[~labels.isfinite()]).numel():
        raise ValueError(f"labels must be finite numbers with problem_type='regression', got {others[0].item()}")


def _check_shape(logits: Tensor, labels: Tensor) -> None:
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must be (batch, labels) = {tuple(logits.shape)} like the logits, got {tuple(labels.shape)}"
        )


def one_hot(class_ids: Tensor, num_labels: int) -> Tensor:
    """Class ids (B,) of images with one label each → labels (B, num_labels); ValueError for an id out of range."""
    return F.one_hot(check_class_ids(class_ids, num_labels), num_labels)


def to_class_ids(labels: Tensor) -> Tensor:
    """Labels (B, L) with exactly one 1 in each row → their class ids (B,); ValueError for another number of them."""
    positive = labels == 1
    if _has_values(labels) and (others := (positive.sum(1) != 1).nonzero()).numel():
        row = int(others[0])
        raise ValueError(
            "every image must have exactly one label with problem_type='single_label_classification', "
            f"image {row} of the batch has {positive[row].sum().item()}"
        )
    return positive.int().argmax(1)


def check_class_ids(class_ids: Tensor, num_labels: int) -> Tensor:
    """Class ids (B,) of any integer dtype as int64; ValueError unless they are integers from 0 to num_labels − 1."""
    if class_ids.ndim != 1 or class_ids.is_floating_point():
        raise ValueError(
            f"class ids must be integers of shape (batch,), got {class_ids.dtype} of shape {tuple(class_ids.shape)}"
        )
    class_ids = class_ids.long()
    if _has_values(class_ids):
        out_of_range = class_ids[(class_ids < 0) | (class_ids >= num_labels)]
        if out_of_range.numel():
            raise ValueError(f"class ids must be from 0 to {num_labels - 1}, got {out_of_range[0].item()}")
    return class_ids


def _has_values(labels: Tensor) -> bool:
    """False while a graph is traced and on the meta device."""
    return not torch.compiler.is_compiling() and not labels.is_meta


class GKGNetBlock(CountsOnce, GradientCheckpointingLayer, Block):
    """Patch-level block that transformers' gradient checkpointing recomputes."""


@dataclass
class GKGNetModelOutput(ModelOutput):
    """Output of `GKGNetModel`.

    Args:
        last_hidden_state (`Tensor` of shape (B, C4, H/32, W/32)): feature map of the last stage, sides rounded up.
        pooler_output (`Tensor` of shape (B, C4)): its global average.
        label_hidden_state (`Tensor` of shape (B, L, C4)): label nodes; None in a network without them.
        hidden_states (`tuple` of `Tensor` (B, C_i, H_i, W_i)): after the stem and after each stage, on request.
        label_neighbors (`tuple` of `Tensor` (B, G, L, K), int64): on request, for each stage which of its patches
            (row-major position) each label looked at, nearest first; None for a stage without cross-level module.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    label_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    label_neighbors: tuple[Tensor | None, ...] | None = None


@dataclass
class GKGNetImageClassifierOutput(ModelOutput):
    """Output of `GKGNetForImageClassification`.

    Args:
        loss (scalar `Tensor`): where labels were given.
        logits (`Tensor` of shape (B, L)): scores before the sigmoid.
        hidden_states, label_neighbors: on request, as in `GKGNetModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    label_neighbors: tuple[Tensor | None, ...] | None = None


class GKGNetPreTrainedModel(PreTrainedModel):
    """Initialisation, checks and settings that the three models share."""

    config: GKGNetConfig
    config_class = GKGNetConfig
    backbone: PyramidVisionGNN
    base_model_prefix = "gkgnet"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Stem", "GKGNetBlock", "LabelBlock", "LabelClassifier"]  # noqa: RUF012, as transformers declares it

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, but each part is loaded whole or starts at random whole, and no pickle is read.

        Label nodes or a classifier that the file lacks altogether start at random, with transformers' warning.

        Args:
            pretrained_model_name_or_path: folder, or name on the Hub.
            ignore_mismatched_sizes: start tensors of another shape at random, in place of an error.
            output_loading_info: return (model, what is missing, unexpected and of another shape) in place of an error
                for missing tensors.
            *args, **kwargs: as in transformers, but pickle files are never loaded unless you pass
                `use_safetensors=False`.

        Raises:
            ValueError: if the weights cannot be read, an index names other files than parts beside it, tensors are of
                another shape (for which transformers has a RuntimeError), or tensors of the patch nodes or of a part of
                the label nodes or of a classifier are missing.
            OSError: if there is no safetensors file.
        """
        load: Any = super().from_pretrained
        if pretrained_model_name_or_path and Path(folder := str(pretrained_model_name_or_path)).is_dir():
            for index in sorted(Path(folder, kwargs.get("subfolder") or "").glob("*.safetensors.index*.json")):
                read_index(index)
        try:
            model, report = load(
                pretrained_model_name_or_path,
                *args,
                ignore_mismatched_sizes=True,  # or else the error would not name the tensors
                output_loading_info=True,
                **{**kwargs, "use_safetensors": kwargs.get("use_safetensors") is not False},
            )
        except SafetensorError as error:
            raise ValueError(f"The weights in {pretrained_model_name_or_path} cannot be read: {error}") from error
        problems = []
        if not ignore_mismatched_sizes and (shapes := report["mismatched_keys"]):
            differ = [f"{name} is {tuple(came)}, not {tuple(ours)}" for name, came, ours in sorted(shapes)]
            problems.append(
                f"{len(differ)} tensors in {pretrained_model_name_or_path} have another shape than the network that "
                f"was asked for: {_first(differ)}. Pass ignore_mismatched_sizes=True to start them at random."
            )
            if any(name.endswith("pos_embed") for name, *_ in shapes):
                problems.append(
                    "The trained position embedding fits every image size without a new image_size; "
                    "gkgnet_hf.training.create_model(labels, model, image_size) resizes it for good."
                )
        missing = _missing_in_part(model, report["missing_keys"])
        if missing and pretrained_model_name_or_path and not output_loading_info:
            problems.append(
                f"{len(missing)} tensors of the network that was asked for are missing in "
                f"{pretrained_model_name_or_path}: {_first(sorted(missing))}"
            )
        if problems:
            raise ValueError(" ".join(problems))
        return (model, report) if output_loading_info else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            init_weights(module)
        elif isinstance(module, nn.Embedding) and module.padding_idx is None:
            init.normal_(module.weight)
        elif isinstance(module, Stem):
            init.zeros_(module.pos_embed)
        elif isinstance(module, LabelProjection):
            module.reset_parameters()  # through torch's init functions, which transformers guards while it loads
        elif isinstance(module, (LabelClassifier, nn.Linear)):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:  # batch norms, and what a subclass adds
            super()._init_weights(module)

    def _prepare(self, pixel_values: Tensor | None) -> Tensor:
        """`pixel_values` in the model's dtype, or ValueError."""
        channels, smallest = self.config.num_channels, self.config.smallest_image
        expected = f"a float tensor (batch, {channels}, height, width) of at least {smallest} pixels a side"
        if pixel_values is None:
            raise ValueError(f"pixel_values must be given: {expected}")
        shape = tuple(pixel_values.shape)
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values must be {expected}, got {pixel_values.dtype} {shape}")
        if len(shape) != 4 or shape[1] != channels or shape[2] < smallest or shape[3] < smallest:
            raise ValueError(f"pixel_values must be {expected}, got {shape}")
        return pixel_values.to(self.backbone.stem.pos_embed.dtype)

    def _build_backbone(self, config: GKGNetConfig) -> PyramidVisionGNN:
        return PyramidVisionGNN(
            img_size=config.image_height_width,
            in_chans=config.num_channels,
            embed_dims=tuple(config.hidden_sizes),
            depths=tuple(config.depths),
            pool_ratios=tuple(config.pooling_ratios),
            mlp_ratio=config.mlp_ratio,
            num_neighbors=config.num_neighbors,
            num_groups=config.num_groups,
            blocks_per_dilation=config.blocks_per_dilation,
            max_dilated_neighbors=config.max_dilated_neighbors,
            use_position_bias=config.use_position_bias,
            drop_path_rate=config.drop_path_rate,
            block_layer=GKGNetBlock,
        )


def read_index(path: Path) -> dict[str, set[str]]:
    """An index of weights in parts: name of each part → names of its tensors.

    Raises:
        ValueError: if it is no such index, or a part is not the name of a safetensors file in the same folder.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not isinstance(index.get("metadata"), dict):
        raise ValueError(f"{path} must be a JSON object with metadata and a weight_map of tensors to files")
    parts: dict[str, set[str]] = {}
    for tensor, part in where.items():
        if not isinstance(part, str) or not part.endswith(".safetensors") or Path(part).name != part or "\\" in part:
            raise ValueError(f"{path} must name safetensors files in its folder, got {part!r:.200}")
        parts.setdefault(part, set()).add(tensor)
    return parts


def _first(items: list[str], count: int = 5) -> str:
    return "; ".join([*items[:count], *(["..."] if len(items) > count else [])])


def _missing_in_part(model: nn.Module, missing: set[str]) -> set[str]:
    """Those of the `missing` tensors that must not start at random.

    A file without classifier, or without label nodes, is a start for other labels. The patch nodes have no other start,
    and a part of which only some tensors are missing is damaged or of another network.
    """

    def part(name: str) -> str:
        return name.removeprefix(f"{GKGNetPreTrainedModel.base_model_prefix}.").split(".")[0]

    loaded = {part(name) for name in model.state_dict().keys() - missing}
    return {name for name in missing if part(name) in loaded | {"backbone"}}


class GKGNetModel(GKGNetPreTrainedModel):
    """Patch and label nodes without classifier.

    Example:

    ```python
    >>> import torch
    >>> from gkgnet_hf import GKGNetConfig, GKGNetModel

    >>> model = GKGNetModel(GKGNetConfig.from_variant("ti", num_labels=5)).eval()
    >>> outputs = model(torch.zeros(1, 3, 224, 224))
    >>> outputs.last_hidden_state.shape, outputs.label_hidden_state.shape
    (torch.Size([1, 384, 7, 7]), torch.Size([1, 5, 384]))

    ```"""

    _keys_to_ignore_on_load_unexpected = [r"^(label|patch)_classifier\."]  # noqa: RUF012, as transformers declares it

    def __init__(self, config: GKGNetConfig):
        super().__init__(config)
        self.backbone = self._build_backbone(config)
        self.label_embedding: nn.Embedding | None = None
        if any(config.num_label_blocks):
            num_labels: int = config.num_labels  # type: ignore[assignment]
            self.label_embedding = nn.Embedding(num_labels, config.hidden_sizes[0])
            rates = block_drop_paths(sum(config.depths), config.drop_path_rate)
            self.label_stages = nn.ModuleList(
                LabelStage(config, i, drop_path=rates[sum(config.depths[:i])]) for i in range(len(config.depths))
            )
        self.post_init()

    def get_input_embeddings(self) -> nn.Conv2d:
        """The first layer, which reads the image."""
        return self.backbone.stem.conv1.conv

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_neighbors: bool | None = None,
        **kwargs: Any,
    ) -> GKGNetModelOutput:
        """Run the graph.

        Args:
            pixel_values: (B, num_channels, H, W), normalised; any sides of `config.smallest_image` pixels or more.
            output_hidden_states: return the feature maps; default `config.output_hidden_states`.
            output_neighbors: return which patches each label looked at.

        Raises:
            ValueError: for an input of another rank, dtype or channel count, or a smaller one.
            TypeError: for the former name of `output_neighbors`.
        """
        if "output_label_neighbors" in kwargs:  # in silence it would change nothing
            raise TypeError("output_label_neighbors is now output_neighbors")
        pixel_values = self._prepare(pixel_values)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        patches = self.backbone.stem(pixel_values)
        labels = None
        if self.label_embedding is not None:
            ids = torch.arange(self.label_embedding.num_embeddings, device=pixel_values.device)
            labels = self.label_embedding(ids).expand(pixel_values.shape[0], -1, -1)  # (B, L, C1)
        hidden_states, label_neighbors = [patches], []
        for i, stage in enumerate(self.backbone.stages):
            patches = stage(patches)
            hidden_states.append(patches)
            if labels is not None:
                labels, neighbors = self.label_stages[i](labels, patches)
                label_neighbors.append(neighbors)
        return GKGNetModelOutput(
            last_hidden_state=patches,
            pooler_output=patches.mean((2, 3)),
            label_hidden_state=labels,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            label_neighbors=tuple(label_neighbors) if output_neighbors and labels is not None else None,
        )


class GKGNetForImageClassification(GKGNetPreTrainedModel):
    """GKGNet with its classifier: logit_l = w_l · label node l + a_l + (V · pooled patches)_l + c_l.

    Example:

    ```python
    >>> import torch
    >>> from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification

    >>> config = GKGNetConfig.from_variant("ti", id2label={0: "cat", 1: "dog", 2: "tree"})
    >>> model = GKGNetForImageClassification(config).eval()
    >>> outputs = model(torch.zeros(2, 3, 224, 224), labels=torch.tensor([[1.0, 0, 1], [0, -1, 0]]))
    >>> outputs.logits.shape, outputs.loss.shape
    (torch.Size([2, 3]), torch.Size([]))

    ```"""

    accepts_loss_kwargs = False
    corrects_labels = True  # where `correction_threshold` asks for it; `MultiLabelTrainer` waits for the second epoch

    # A new layer here must also be initialised in `_init_weights`, be named in `_keys_to_ignore_on_load_unexpected` of
    # `GKGNetModel` and `GKGNetBackbone`, and, if it has a row for each label, in `training.initialize.LABEL_TENSORS`.
    def __init__(self, config: GKGNetConfig):
        super().__init__(config)
        self.num_labels: int = config.num_labels  # type: ignore[assignment]
        self.gkgnet = GKGNetModel(config)
        dim = config.hidden_sizes[-1]
        self.label_classifier = LabelClassifier(self.num_labels, dim) if any(config.num_label_blocks) else None
        self.patch_classifier = nn.Linear(dim, self.num_labels)
        self.post_init()

    def check_label_names(self) -> None:
        """Raise ValueError unless the configuration names as many labels as the network has."""
        # A classifier that someone has put in place of ours need not be a linear layer.
        if (num_labels := getattr(self.patch_classifier, "out_features", self.num_labels)) != self.config.num_labels:
            raise ValueError(f"The network has {num_labels} labels, id2label names {self.config.num_labels}")

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers; ValueError where the configuration names another number of labels than there are."""
        self.check_label_names()
        super().save_pretrained(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_neighbors: bool | None = None,
        **kwargs: Any,
    ) -> GKGNetImageClassifierOutput:
        """Score the labels of images.

        Args:
            pixel_values: (B, num_channels, H, W), normalised; any sides of `config.smallest_image` pixels or more.
            labels: (B, L) of 1 (positive), 0 (negative), −1 or NaN (unknown, ignored). Or, with two labels or more,
                (B,) integer class ids of images that have one label each. With the `problem_type` single-label, either
                of them with exactly one label an image; with "regression", (B, L) of finite numbers, or
                (B,) with one label.
            output_hidden_states, output_neighbors: as in `GKGNetModel`.

        Raises:
            ValueError: for an input or labels of another shape, dtype or value.
        """
        outputs = self.gkgnet(
            pixel_values,
            output_hidden_states=output_hidden_states,
            output_neighbors=output_neighbors,
            return_dict=True,
            **kwargs,
        )
        logits = self.classify(outputs)
        return GKGNetImageClassifierOutput(
            loss=self._loss(logits, labels) if labels is not None else None,
            logits=logits,
            hidden_states=outputs.hidden_states,
            label_neighbors=outputs.label_neighbors,
        )

    def classify(self, outputs: GKGNetModelOutput) -> Tensor:
        """Logits (B, L) from the output of `gkgnet`."""
        logits = self.patch_classifier(outputs.pooler_output)
        if self.label_classifier is not None:
            logits = logits + self.label_classifier(outputs.label_hidden_state)
        return logits

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        config = self.config
        if config.problem_type == "single_label_classification":
            if labels.shape == logits.shape:
                labels = to_class_ids(labels)
            labels = check_class_ids(labels, self.num_labels)
        if config.problem_type == "regression":
            if self.num_labels == 1 and labels.ndim == 1:
                labels = labels.unsqueeze(1)
            check_numbers(logits, labels)
        if config.problem_type in ("single_label_classification", "regression"):
            return self.loss_function(labels=labels, pooled_logits=logits, config=config)
        settings = {name: getattr(config, name) for name in LOSS_FIELDS}
        if not self.corrects_labels:
            settings["correction_threshold"] = 1.0
        return multi_label_loss(logits, labels, **settings)


class GKGNetBackbone(BackboneMixin, GKGNetPreTrainedModel):
    """The patch nodes as a backbone for detectors and segmenters; label nodes are left out.

    Example:

    ```python
    >>> import torch
    >>> from gkgnet_hf import GKGNetBackbone, GKGNetConfig

    >>> backbone = GKGNetBackbone(GKGNetConfig.from_variant("ti", out_features=["stage2", "stage4"])).eval()
    >>> [tuple(feature_map.shape) for feature_map in backbone(torch.zeros(1, 3, 224, 224)).feature_maps]
    [(1, 96, 28, 28), (1, 384, 7, 7)]

    ```"""

    has_attentions = False
    _keys_to_ignore_on_load_unexpected = [r"^(gkgnet\.)?label_", r"^patch_classifier\."]  # noqa: RUF012, as above

    def __init__(self, config: GKGNetConfig):
        super().__init__(config)
        self.backbone = self._build_backbone(config)
        self.num_features = [config.hidden_sizes[0], *config.hidden_sizes]
        self.post_init()

    def get_input_embeddings(self) -> nn.Conv2d:
        """The first layer, which reads the image."""
        return self.backbone.stem.conv1.conv

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BackboneOutput:
        """Feature maps (B, C_i, H_i, W_i) of `config.out_features`.

        Args:
            pixel_values: (B, num_channels, H, W), normalised; any sides of `config.smallest_image` pixels or more.

        Raises:
            ValueError: for an input of another rank, dtype or channel count, or a smaller one.
        """
        hidden_states = [self.backbone.stem(self._prepare(pixel_values))]
        for stage in self.backbone.stages:
            hidden_states.append(stage(hidden_states[-1]))
        return BackboneOutput(
            feature_maps=tuple(hidden_states[self.stage_names.index(name)] for name in self.out_features),
            hidden_states=tuple(hidden_states),
        )
