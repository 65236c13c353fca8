"""Configuration of GKGNet, in the style of transformers 5."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from packaging.version import Version
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin
from transformers.utils import logging

if TYPE_CHECKING:
    # transformers reads this line as text, and so saves the code of the models with every configuration.
    from .modeling_gkgnet import GKGNetModel  # noqa: F401

__version__ = "0.2.0"

# What loads a saved model where this package is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_gkgnet.GKGNetConfig",
    "AutoModel": "modeling_gkgnet.GKGNetModel",
    "AutoModelForImageClassification": "modeling_gkgnet.GKGNetForImageClassification",
    "AutoBackbone": "modeling_gkgnet.GKGNetBackbone",
}

logger = logging.get_logger(__name__)

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

# A file that asks for more than this is damaged or hostile: building the network would end in a full memory.
MAX_PARAMETERS = 500_000_000  # of GKGNet-B: 100 million
MAX_STAGES, MAX_BLOCKS, MAX_LABELS, MAX_NEIGHBORS = 10, 1000, 1_000_000, 1024
MAX_SIDE = 4096  # of an image, in pixels
MAX_POSITION_BIAS = 2**27  # values: those of an image of MAX_SIDE in a network of the paper

# Sizes of Pyramid ViG, which GKGNet takes over.
VARIANTS: dict[str, dict[str, tuple[int, ...]]] = {
    "ti": {"hidden_sizes": (48, 96, 240, 384), "depths": (2, 2, 6, 2)},
    "s": {"hidden_sizes": (80, 160, 400, 640), "depths": (2, 2, 6, 2)},
    "m": {"hidden_sizes": (96, 192, 384, 768), "depths": (2, 2, 16, 2)},
    "b": {"hidden_sizes": (128, 256, 512, 1024), "depths": (2, 2, 18, 2)},
}


@strict
class GKGNetConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of `GKGNetModel`, `GKGNetForImageClassification` and `GKGNetBackbone`. The defaults are GKGNet-S at
    224 pixels (https://arxiv.org/abs/2308.14378), two labels.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the image.
        image_size (`int` or pair of `int`, *optional*, defaults to 224):
            Side, or (height, width), in pixels that the position embedding is made for. Any other size of 32 pixels
            or more works too; the embedding is then resized.
        hidden_sizes (`list[int]`, *optional*, defaults to `(80, 160, 400, 640)`):
            Width C of the nodes in each stage.
        depths (`list[int]`, *optional*, defaults to `(2, 2, 6, 2)`):
            Patch-level blocks in each stage.
        pooling_ratios (`list[int]`, *optional*, defaults to `(4, 2, 1, 1)`):
            Side r of the average pooling of the source patches in each stage.
        mlp_ratio (`int`, *optional*, defaults to 4):
            Hidden width of the feed-forward blocks over C.
        num_neighbors (`int`, *optional*, defaults to 9):
            Neighbours K of a patch.
        num_groups (`int`, *optional*, defaults to 2):
            Groups G of channels in which a patch finds its neighbours; 1 is Pyramid ViG.
        blocks_per_dilation (`int`, *optional*, defaults to 4):
            The dilation d grows by one each time this many patch-level blocks have passed.
        max_dilated_neighbors (`int`, *optional*, defaults to 49):
            The dilation stops growing where K·d would pass this.
        num_label_neighbors (`int`, *optional*, defaults to 9):
            Patches that a label gathers from, in each group.
        num_label_groups (`int`, *optional*, defaults to 2):
            Groups of channels in which a label finds its patches.
        num_label_blocks (`list[int]`, *optional*, defaults to `(1, 1, 1, 1)`):
            Cross-level modules after each stage. All 0 leaves Pyramid ViG with a linear multi-label classifier.
        use_position_bias (`bool`, *optional*, defaults to `True`):
            Whether the search of the patches adds the sine-cosine position bias.
        drop_path_rate (`float`, *optional*, defaults to 0.1):
            Drop-path rate of the last block in training; it rises linearly from 0 at the first.
        initializer_range (`float`, *optional*, defaults to 0.01):
            Standard deviation of the initial weights of the two classifier layers.
        asymmetric_loss_weight (`float`, *optional*, defaults to 10.0):
            Factor of the asymmetric loss (https://arxiv.org/abs/2009.14119).
        gamma_positive (`float`, *optional*, defaults to 0.0):
            Its focusing exponent for positive labels.
        gamma_negative (`float`, *optional*, defaults to 2.0):
            Its focusing exponent for negative labels.
        probability_margin (`float`, *optional*, defaults to 0.05):
            Its margin: negatives scored lower than this cost nothing.
        logit_margin (`float`, *optional*, defaults to 0.0):
            Subtracted from the logits of positive labels in that loss.
        hill_lambda (`float`, *optional*, defaults to 0.0):
            λ of the Hill loss (https://arxiv.org/abs/2112.07368), which takes the place of the asymmetric loss for
            negative labels; 0 leaves them the asymmetric loss.
        correction_threshold (`float`, *optional*, defaults to 1.0):
            τ of self-paced loss correction, from the same paper: in training, negative labels scored higher than this
            count as positive. 1 corrects none.
        smoothed_loss_weight (`float`, *optional*, defaults to 1.0):
            Factor of the binary cross-entropy against smoothed labels.
        label_smoothing (`float`, *optional*, defaults to 0.1):
            ε of that loss: targets are 1 − ε and ε.
        decision_threshold (`float` or `list[float]`, *optional*, defaults to 0.5):
            One for all labels or one a label; a score at or above it predicts the label. An array or tuple becomes
            a list. When the number of labels changes, a list goes back to 0.5 with a warning.
        id2label (`dict[int, str]`, *optional*):
            Names of the labels 0 to L − 1, each another one. Default `LABEL_0` and so on, `num_labels` (2) of them. Ids
            may be numbers or their digits; they are kept as numbers in ascending order.
        label2id (`dict[str, int]`, *optional*):
            The same the other way round. Each of the two is derived from the other where only one is given.
        problem_type (`str`, *optional*, defaults to `"multi_label_classification"`):
            The default allows any number of labels per image. `"single_label_classification"` means one: cross-entropy
            in training, softmax for the scores. `"regression"` means numbers: the mean squared error in training, the
            logits themselves for the scores.
        out_features (`list[str]`, *optional*):
            Stages that `GKGNetBackbone` returns, of `"stem"`, `"stage1"` … `"stage4"`; the last if unset.
        out_indices (`list[int]`, *optional*):
            The same by index.
        gkgnet_hf_version (`str`, *optional*):
            Version of this package that wrote the file this configuration is from. Set when saving.

    Example:

    ```python
    >>> from gkgnet_hf import GKGNetConfig

    >>> config = GKGNetConfig.from_variant("ti", image_size=448, num_labels=30)
    >>> config.hidden_sizes, config.num_labels
    ((48, 96, 240, 384), 30)

    ```"""

    model_type = "gkgnet"
    keys_to_ignore_at_inference = ["hidden_states", "label_neighbors"]  # noqa: RUF012, as transformers declares it

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    hidden_sizes: list[int] | tuple[int, ...] = VARIANTS["s"]["hidden_sizes"]
    depths: list[int] | tuple[int, ...] = VARIANTS["s"]["depths"]
    pooling_ratios: list[int] | tuple[int, ...] = (4, 2, 1, 1)
    mlp_ratio: int = 4
    num_neighbors: int = 9
    num_groups: int = 2
    blocks_per_dilation: int = 4
    max_dilated_neighbors: int = 49
    num_label_neighbors: int = 9
    num_label_groups: int = 2
    num_label_blocks: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    use_position_bias: bool = True
    drop_path_rate: float | int = 0.1
    initializer_range: float | int = 0.01
    asymmetric_loss_weight: float | int = 10.0
    gamma_positive: float | int = 0.0
    gamma_negative: float | int = 2.0
    probability_margin: float | int = 0.05
    logit_margin: float | int = 0.0
    hill_lambda: float | int = 0.0
    correction_threshold: float | int = 1.0
    smoothed_loss_weight: float | int = 1.0
    label_smoothing: float | int = 0.1
    # float | list[float] and mappings; types here would refuse NumPy's numbers before __setattr__ sees them
    decision_threshold: Any = 0.5
    id2label: Any = None
    label2id: Any = None
    problem_type: ProblemType | None = "multi_label_classification"
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None
    gkgnet_hf_version: str | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "decision_threshold":
            value = _plain(value)
            if any(type(each) not in (float, int) for each in (value if isinstance(value, list) else [value])):
                raise ValueError(f"decision_threshold must be one number or one a label, got {value!r}")
        if name in ("id2label", "label2id"):
            _check_mapping(name, value)
        if name == "label2id" and value is not None:
            value = {label: _id(i) for label, i in value.items()}
        if name == "id2label" and value is not None:
            value = _sorted_labels(name, value.items())
            # label2id goes along, unless it was set by itself before: saving then checks that the two agree.
            if self.id2label and self.label2id == _inverse(self.id2label):
                super().__setattr__("label2id", _inverse(value))
            thresholds, before, now = self.decision_threshold, len(self.id2label or ()), len(value)
            if isinstance(thresholds, list) and len(thresholds) == before != now:
                logger.warning(
                    f"decision_threshold goes back to 0.5: it had one for each of {before} labels, now {now}"
                )
                self.decision_threshold = 0.5
        super().__setattr__(name, value)

    def __post_init__(self, **kwargs):
        self._check_origin(kwargs)
        self._check()
        _check_dtype(self.dtype)
        _check_dtype(kwargs.get("torch_dtype"))
        kwargs.pop("stage_names", None)  # they follow from the depths
        self.id2label, self.label2id = _complete_labels(kwargs.get("num_labels"), self.id2label, self.label2id)
        if (parameters := count_parameters(self, len(self.id2label))) > MAX_PARAMETERS:
            raise _too_large(parameters)
        self.validate_decision_threshold()
        self.stage_names = ["stem"] + [f"stage{i}" for i in range(1, len(self.depths) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers; ValueError for a file that is no JSON object."""
        try:
            content, others = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, KeyError, RecursionError, TypeError) as error:  # of JSON that is something else
            raise ValueError(
                f"The configuration of {pretrained_model_name_or_path} must be a JSON object: {one_line(error)}"
            ) from error
        if not isinstance(content, dict):
            raise ValueError(
                f"The configuration of {pretrained_model_name_or_path} must be a JSON object, got a "
                f"{type(content).__name__}"
            )
        return content, others

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, and the labels that the caller gives replace all that a file says of labels.

        Raises:
            ValueError: for fields of another type or value, fields that would hide what the class itself has, more than
                `MAX_PARAMETERS`, and an id2label and label2id that contradict each other. Only the names LABEL_0,
                LABEL_1, … in label2id, which say nothing, give way to those of id2label, with a warning.
        """
        config_dict = _checked_fields(config_dict)
        num_labels, names, ids = (kwargs.pop(name, None) for name in ("num_labels", "id2label", "label2id"))
        try:
            loaded = super().from_dict(config_dict, **kwargs)
            config = loaded[0] if isinstance(loaded, tuple) else loaded
            config._check()  # what the caller gives is set after the class has checked the file
        except (StrictDataclassError, AttributeError, KeyError, OverflowError, RecursionError, TypeError) as error:
            raise ValueError(f"The configuration has a wrong field: {one_line(error)}") from error
        if names is not None or ids is not None or num_labels not in (None, config.num_labels):
            config.id2label, config.label2id = _complete_labels(num_labels, names, ids)
        return loaded

    @classmethod
    def from_variant(cls, variant: str, **kwargs: Any) -> "GKGNetConfig":
        """Configuration of one of the four sizes.

        Args:
            variant: "ti", "s", "m" or "b".
            **kwargs: any field, for instance `image_size=576, id2label=...`.

        Raises:
            ValueError: for another variant.
        """
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        return cls(**{**VARIANTS[variant], **kwargs})

    @property
    def image_height_width(self) -> tuple[int, int]:
        """`image_size` as (height, width)."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        height, width = self.image_size
        return height, width

    @property
    def smallest_image(self) -> int:
        """Side in pixels that every image must have: 32, or more where a pooling ratio asks for a larger grid."""
        return max(32, *(4 * 2**stage * ratio for stage, ratio in enumerate(self.pooling_ratios)))

    def to_dict(self) -> dict[str, Any]:
        """Every field, as saved: with this version and where the classes stand in the files saved beside it."""
        fields = super().to_dict()
        # Classes of ours stand beside the file, wherever they were loaded from; a registered subclass stays.
        others = {
            auto: where
            for auto, where in (fields.get("auto_map") or {}).items()
            if str(where).rpartition("--")[2] != AUTO_MAP.get(auto)
        }
        return {**fields, "gkgnet_hf_version": __version__, "auto_map": {**AUTO_MAP, **others}}

    def _check_origin(self, others: Iterable[str]) -> None:
        """Warn of a newer version, or of the unknown fields among `others`."""
        if self.gkgnet_hf_version is not None and Version(self.gkgnet_hf_version) > Version(__version__):
            logger.warning(
                f"This configuration was written by gkgnet_hf {self.gkgnet_hf_version}; {__version__} may not know "
                "all of its fields"
            )
            return
        unknown = []
        for name in sorted({name for name in others if not name.startswith("_")} - _OTHERS_FIELDS):
            if not hasattr(type(self), name):
                near = ["num_labels"] if name == "num_classes" else get_close_matches(name, _FIELDS, n=1, cutoff=0.8)
                unknown.append(f"{name} (did you mean {near[0]}?)" if near else _word(name))
        if unknown:
            logger.warning(f"GKGNetConfig has no such fields, they change nothing: {', '.join(unknown)}")

    def _check(self) -> None:
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size must be one side or (height, width), got {_shown(self.image_size)}")
        if len(self.depths) > MAX_STAGES:
            raise ValueError(f"depths must be of at most {MAX_STAGES} stages, got {len(self.depths):,}")
        for name in ("hidden_sizes", "pooling_ratios", "num_label_blocks"):
            values = getattr(self, name)
            if len(values) != len(self.depths):
                raise ValueError(
                    f"{name} must have one entry a stage, {len(self.depths)} as depths={self.depths}, "
                    f"got {_shown(values)}"
                )
        for name, lowest in _LOWEST.items():
            values = getattr(self, name)
            each = values if isinstance(values, (list, tuple)) else [values]
            if not min(each, default=lowest - 1) >= lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {_shown(values)}")  # NaN too
            if not max(each) < math.inf:
                raise ValueError(f"{name} must be finite, got {_shown(values)}")
        for name in ("drop_path_rate", "probability_margin", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {_shown(getattr(self, name))}")
        if not 0 <= self.correction_threshold <= 1:
            raise ValueError(f"correction_threshold must be in [0, 1], got {_shown(self.correction_threshold)}")
        if min(self.image_height_width) < self.smallest_image:
            raise ValueError(
                f"image_size must be at least {self.smallest_image} pixels a side "
                f"(pooling_ratios={_shown(self.pooling_ratios)}), got {_shown(self.image_size)}"
            )
        self._check_divisors()
        self._check_size()

    def _check_size(self) -> None:
        """Raise ValueError for a network that no machine should be asked to build."""
        if max(self.image_height_width) > MAX_SIDE:
            raise ValueError(f"image_size must be at most {MAX_SIDE} pixels a side, got {_shown(self.image_size)}")
        if (blocks := sum(self.depths) + sum(self.num_label_blocks)) > MAX_BLOCKS:
            raise ValueError(
                f"depths and num_label_blocks must be at most {MAX_BLOCKS:,} blocks together, got {_shown(blocks)}"
            )
        for name in ("num_neighbors", "num_label_neighbors"):
            if (neighbors := getattr(self, name)) > MAX_NEIGHBORS:
                raise ValueError(f"{name} must be at most {MAX_NEIGHBORS:,}, got {_shown(neighbors)}")
        if self.use_position_bias:
            height, width = (-(-side // 4) for side in self.image_height_width)
            for stage, ratio in enumerate(self.pooling_ratios):
                if (values := (height + width) * (height // ratio) * (width // ratio)) > MAX_POSITION_BIAS:
                    raise ValueError(
                        f"image_size must be smaller: for {self.image_size} pixels and pooling_ratios="
                        f"{self.pooling_ratios} the position bias of stage {stage + 1} has {values:,} values, more "
                        f"than {MAX_POSITION_BIAS:,}"
                    )
                height, width = -(-height // 2), -(-width // 2)
        if (parameters := count_parameters(self, num_labels=1)) > MAX_PARAMETERS:
            raise _too_large(parameters)

    def validate_labels(self) -> None:
        """Raise ValueError unless id2label and label2id name the same labels; transformers calls it before saving."""
        _complete_labels(None, self.id2label, self.label2id)

    def validate_decision_threshold(self) -> None:
        """Raise ValueError unless there is one threshold or one a label, each from 0 to 1."""
        thresholds = self.decision_threshold
        if isinstance(thresholds, list) and len(thresholds) != self.num_labels:
            raise ValueError(
                f"decision_threshold must be one number or one a label, {self.num_labels}, got {len(thresholds)}"
            )
        for threshold in thresholds if isinstance(thresholds, list) else [thresholds]:
            if not 0 <= threshold <= 1:
                raise ValueError(f"decision_threshold must be in [0, 1], got {threshold}")

    def _check_divisors(self) -> None:
        # The embedding has sine and cosine halves for x and y; the update is a convolution of 2·C in 4 groups.
        divisors = {"num_groups": self.num_groups, "use_position_bias": 4 if self.use_position_bias else 2}
        if any(self.num_label_blocks):
            divisors["num_label_groups"] = self.num_label_groups
        for name, divisor in divisors.items():
            for size in self.hidden_sizes:
                if size % divisor:
                    raise ValueError(
                        f"hidden_sizes must be divisible by {divisor} ({name}={_shown(getattr(self, name))}), "
                        f"got {_shown(size)} in {_shown(self.hidden_sizes)}"
                    )


_LOWEST = {
    "num_channels": 1,
    "depths": 1,
    "hidden_sizes": 2,
    "pooling_ratios": 1,
    "mlp_ratio": 1,
    "num_neighbors": 1,
    "num_groups": 1,
    "blocks_per_dilation": 1,
    "max_dilated_neighbors": 1,
    "num_label_neighbors": 1,
    "num_label_groups": 1,
    "num_label_blocks": 0,
    "initializer_range": 0,
    "asymmetric_loss_weight": 0,
    "gamma_positive": 0,
    "gamma_negative": 0,
    "logit_margin": 0,
    "hill_lambda": 0,
    "smoothed_loss_weight": 0,
}


def count_parameters(config: GKGNetConfig, num_labels: int | None = None) -> int:
    """Parameters of the `GKGNetForImageClassification` of a configuration, without building it.

    Args:
        config: of the network.
        num_labels: default that of `config`.

    >>> f"{count_parameters(GKGNetConfig.from_variant('b', num_labels=80)):,}"
    '108,531,360'
    """
    labels: int = config.num_labels if num_labels is None else num_labels  # type: ignore[assignment]
    with_labels = any(config.num_label_blocks)
    first, last = config.hidden_sizes[0], config.hidden_sizes[-1]
    rows, columns = (-(-side // 4) for side in config.image_height_width)
    half = first // 2
    # Each convolution has a bias, and each channel behind it a factor and a bias of its batch norm: three.
    total = half * (9 * config.num_channels + 3) + first * (9 * half + 3) + first * (9 * first + 3)
    total += first * rows * columns + labels * (last + 1)  # position embedding and classifier of the patches
    if with_labels:
        total += labels * (first + last + 1)
    before = None
    for width, depth, blocks in zip(config.hidden_sizes, config.depths, config.num_label_blocks, strict=True):
        graph = 4 * width**2 + 12 * width
        feed_forward = 2 * config.mlp_ratio * width**2 + 3 * (config.mlp_ratio + 1) * width
        total += (depth + blocks) * (graph + feed_forward)
        if before is not None:
            total += width * (9 * before + 3) + (width * (before + 1) if with_labels else 0)
        before = width
    return total


def _too_large(parameters: int) -> ValueError:
    return ValueError(
        f"The configuration asks for a network of {_shown(parameters)} parameters, more than {MAX_PARAMETERS:,}: make "
        "hidden_sizes, depths, mlp_ratio, image_size or the labels smaller"
    )


_FIELDS = [name.lstrip("_") for name in (*GKGNetConfig.__annotations__, "num_labels")]

# What transformers and tools around it write or pass, without a declaration in its classes.
_OTHERS_FIELDS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "finetuning_task",
    "quantization_config",
    "stage_names",
    "task_specific_params",
    "tie_word_embeddings",
    "transformers.js_config",
    "transformers_weights",
    "use_cache",  # by the Trainer
}


# Names that a file may hold beside the declared fields, although the class has attributes of these names.
_ATTRIBUTES_OF_FILES = {
    "model_type",
    "name_or_path",
    "num_labels",
    "out_features",
    "out_indices",
    "output_attentions",
    "torch_dtype",
}

FLOATS = ("float32", "float16", "bfloat16", "float64")


def _checked_fields(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file; ValueError for those that transformers would trip over or run."""
    declared = {field.name for field in fields(GKGNetConfig)} | _ATTRIBUTES_OF_FILES
    for name in content:
        if not isinstance(name, str) or name == "self" or (hasattr(GKGNetConfig, name) and name not in declared):
            raise ValueError(
                f"A configuration has no field {_word(name)}: it would hide what the class has of that name"
            )
    architectures = content.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, (list, tuple)) and all(isinstance(name, str) for name in architectures)
    ):
        raise ValueError(f"architectures must be a list of names of classes, got {_shown(architectures)}")
    auto_map = content.get("auto_map")
    if auto_map is not None and not (
        isinstance(auto_map, dict) and all(isinstance(where, (str, list, tuple)) for where in auto_map.values())
    ):
        raise ValueError(f"auto_map must be a mapping of Auto classes to classes, got {_shown(auto_map)}")
    for name in ("attn_implementation", "experts_implementation"):  # the name of a repository would fetch its code
        if content.get(name) not in (None, "eager", "sdpa"):
            raise ValueError(f"{name} must be eager or sdpa, got {_shown(content[name])}")
    names, ids = content.get("id2label"), content.get("label2id")
    if isinstance(names, dict) and isinstance(ids, dict):
        content = {**content, "label2id": None}
        _check_mapping("id2label", names)
        _check_mapping("label2id", ids)
        known = {(_id(i), name) for i, name in names.items()}
        if differ := sorted(name for name, i in ids.items() if (_id(i), name) not in known):
            if any(name != f"LABEL_{_id(ids[name])}" for name in differ):
                raise ValueError(f"label2id must be the inverse of id2label, but they differ in {_words(differ)}")
            logger.warning("label2id contradicts id2label in this configuration: id2label counts")
    if content.get("num_labels", 0) is None:
        content = {name: value for name, value in content.items() if name != "num_labels"}
    return content


def _check_dtype(dtype: Any) -> None:
    name = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    if dtype is not None and name not in FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(FLOATS)}, got {_shown(dtype)}")


def one_line(error: BaseException) -> str:
    """What an error of another library says, on one line of a length that a person reads.

    >>> one_line(TypeError("of a field:\\n    expected int"))
    'of a field: expected int'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return _word(text if len(text) <= 600 else f"{text[:600]}…")


def _word(text: Any) -> str:
    """Text as it is, or quoted where it holds what a terminal would act on or cannot show."""
    text = text if isinstance(text, str) else repr(text)
    text = text if len(text) <= 601 else f"{text[:600]}…"
    return text if text.isprintable() else ascii(text)


def _words(names: Iterable[str], count: int = 5) -> str:
    """The first of these names, for a message."""
    names = list(names)
    return ", ".join([*map(_word, names[:count]), *(["…"] if len(names) > count else [])])


def _shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**20 else f"about 10^{value.bit_length() * 301 // 1000}"
    text = repr(value) if not isinstance(value, (list, tuple)) else _listed(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _listed(values: Any) -> str:
    inside = ", ".join(_shown(value) for value in values[:20])
    if len(values) > 20:
        inside += f", … ({len(values):,} in all)"
    elif isinstance(values, tuple) and len(values) == 1:
        inside += ","
    return f"[{inside}]" if isinstance(values, list) else f"({inside})"


def _complete_labels(
    num_labels: Any, id2label: Mapping[Any, str] | None, label2id: Mapping[str, Any] | None
) -> tuple[dict[int, str], dict[str, int]]:
    """Both mappings from those that are given, None for the others; ValueError where what is given does not agree."""
    num_labels = _plain(num_labels)
    if num_labels is not None and (not isinstance(num_labels, int) or isinstance(num_labels, bool)):
        raise ValueError(f"num_labels must be an integer, got {_shown(num_labels)}")
    if num_labels is not None and num_labels > MAX_LABELS:
        raise ValueError(f"num_labels must be at most {MAX_LABELS:,}, got {_shown(num_labels)}")
    _check_mapping("id2label", id2label)
    _check_mapping("label2id", label2id)
    if id2label is not None:
        names = _sorted_labels("id2label", id2label.items())
    elif label2id is not None:
        names = _sorted_labels("label2id", ((i, name) for name, i in label2id.items()))
    else:
        count = 2 if num_labels is None else num_labels
        names = _sorted_labels("num_labels", ((i, f"LABEL_{i}") for i in range(count)))
    if num_labels is not None and len(names) != num_labels:
        raise ValueError(f"num_labels must be {len(names)}, as many as id2label names, got {_shown(num_labels)}")
    ids = _inverse(names)
    if label2id is not None and (others := ids.items() ^ {name: _id(i) for name, i in label2id.items()}.items()):
        differ = sorted({name for name, _ in others})
        raise ValueError(f"label2id must be the inverse of id2label, but they differ in {_words(differ)}")
    return names, ids


def _check_mapping(field: str, value: Any) -> None:
    if value is None:
        return
    kinds, types = ("ids to names", (int | str, str)) if field == "id2label" else ("names to ids", (str, int | str))
    if not isinstance(value, Mapping):
        raise ValueError(f"{field} must be a mapping of {kinds}, got a {type(value).__name__}")
    for pair in value.items():
        one, other = map(_plain, pair)
        if not isinstance(one, types[0]) or not isinstance(other, types[1]) or bool in (type(one), type(other)):
            raise ValueError(f"{field} must be a mapping of {kinds}, got {_shown(one)}: {_shown(other)}")
        name = str(other if field == "id2label" else one)
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"{field} must name labels in Unicode, got half a character in {_word(name)}")


def _sorted_labels(field: str, pairs: Iterable[tuple[Any, str]]) -> dict[int, str]:
    """Ids and names as they are kept; ValueError unless the ids are 0 to L − 1 and every name occurs once."""
    pairs = list(pairs)
    if not pairs:
        raise ValueError("num_labels must be at least 1, got 0")
    if len(pairs) > MAX_LABELS:
        raise ValueError(f"{field} must name at most {MAX_LABELS:,} labels, got {len(pairs):,}")
    names = {_id(i): name for i, name in pairs}
    if names.keys() != set(range(len(pairs))):
        raise ValueError(f"{field} must name the labels 0 to {len(pairs) - 1}, got {_shown([i for i, _ in pairs])}")
    if repeated := sorted(name for name, count in Counter(names.values()).items() if count > 1):
        raise ValueError(f"{field} must give every label another name, got more than once: {_words(repeated)}")
    return dict(sorted(names.items()))


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy or torch, and tuples, as Python's own numbers and lists, which JSON can hold."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _id(value: Any) -> Any:
    """A number where `value` is one or its digits."""
    return int(value) if str(value).isdecimal() else value


def _inverse(names: Mapping[Any, str]) -> dict[str, Any]:
    return {name: i for i, name in names.items()}


GKGNetConfig.register_for_auto_class()
