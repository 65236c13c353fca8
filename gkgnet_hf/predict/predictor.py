"""A batch of pictures in, a batch of labels out: what the command, Ray, Spark and `Dataset.map` all call."""

import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BaseImageProcessor

from ..data.pictures import PictureError, picture_reader
from ..modeling.image_processing_gkgnet import load_image_processor, to_pixel_values
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from ..modeling.vision_gnn import optimize_for_inference
from .label_rules import LabelRules, read_label_rules
from .scoring import IMAGE_TYPES, check_not_nan, load_model, model_label_names, probabilities

Embeddings = Literal["patches", "labels"]


class Predictor:
    """Labels for batches of pictures. It can be pickled: what it sends is the model's name, and each process loads it.

    By default the network is prepared by `optimize_for_inference`, and computes in bfloat16 where the processor has
    instructions for it. Scores then differ from the exact ones by about 0.01.

    Args:
        model: folder, or name on the Hub as "user/name".
        image_column: the column of a batch that holds pictures: paths, contents of files, PIL images or arrays.
        exact: compute as `predict_scores` does.
        embeddings: give the pooled patches (C4,) or the label nodes (L, C4) of each picture too.
        device: of torch; default, the accelerator of this process, else the CPU.
        **rules: the arguments of `read_label_rules` after the second, such as `threshold`, `top_k`, `table`.

    Raises:
        FileNotFoundError, ValueError: as `load_model`, when the first batch comes.

    Example:

        predictor = Predictor("my-gkgnet", threshold=0.6)
        predictor({"image": ["a.jpg", "b.jpg"]})["labels"]     # [["dog", "cat"], ["dog"]]
        dataset.map(predictor, batched=True, batch_size=32, remove_columns=["image"])
        ray_dataset.map_batches(Predictor, fn_constructor_args=["my-gkgnet"], concurrency=2)
    """

    def __init__(
        self,
        model: str,
        image_column: str = "image",
        exact: bool = False,
        embeddings: Embeddings | None = None,
        device: str | None = None,
        **rules: Any,
    ):
        self.model = model
        self.image_column = image_column
        self.exact = exact
        self.embeddings = embeddings
        self.device = device
        self.rule_arguments = rules
        self.fingerprint = ""
        self._loaded: tuple[GKGNetForImageClassification, BaseImageProcessor, LabelRules] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    @property
    def manifest(self) -> dict[str, Any]:
        """What results depend on: the model's weights and configuration, the rules, and how it computes."""
        rules = self.rules.to_dict()
        return {"model": self.fingerprint, **rules, "exact": self.exact, "embeddings": self.embeddings}

    @property
    def network(self) -> GKGNetForImageClassification:
        """The network as it scores, in eval mode."""
        return self._load()[0]

    @property
    def processor(self) -> BaseImageProcessor:
        """The model's image processor."""
        return self._load()[1]

    @property
    def rules(self) -> LabelRules:
        """Which labels are kept."""
        return self._load()[2]

    def _load(self) -> tuple[GKGNetForImageClassification, BaseImageProcessor, LabelRules]:
        if self._loaded is None:
            network = load_model(self.model).eval()
            names = model_label_names(network)
            rules = read_label_rules(names, network.config.decision_threshold, **self.rule_arguments)
            self.fingerprint = _fingerprint(network)
            network.to(self.device or _accelerator())
            if not self.exact:
                network = optimize_for_inference(network)
                if has_fast_bfloat16(network.device):
                    network.to(torch.bfloat16)
            self._loaded = network, load_image_processor(self.model, network.config.num_channels), rules
        return self._loaded

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Label a batch.

        Args:
            batch: columns of N values; pictures in `image_column`.

        Returns:
            The other columns as they came, the pictures' column where it holds paths, and: `labels`, N lists of names,
            highest score first; `label_scores`, theirs; `scores` (N, L) float32; `problem`, None or why a picture
            cannot be used, which then has no labels and NaN as scores; `embedding` where it was asked for.
        """
        read = BatchReader(self.processor)
        pictures = batch[self.image_column]
        pixel_values, problems = read(pictures)
        scores = np.full((len(pictures), len(self.rules.names)), np.nan, dtype=np.float32)
        good = [i for i in range(len(pictures)) if i not in problems]
        result: dict[str, Any] = {
            name: values for name, values in batch.items() if name != self.image_column or _are_paths(values)
        }
        if pixel_values is not None:
            scores[good], embeddings = self.score(pixel_values)
            if embeddings is not None:
                result["embedding"] = np.full((len(pictures), *embeddings.shape[1:]), np.nan, dtype=np.float32)
                result["embedding"][good] = embeddings
        labels = [[] if i in problems else self.rules(scores[i]) for i in range(len(pictures))]
        result["labels"] = [[name for name, _ in found] for found in labels]
        result["label_scores"] = [[score for _, score in found] for found in labels]
        result["scores"] = scores
        result["problem"] = [problems.get(i) for i in range(len(pictures))]
        return result

    @torch.inference_mode()
    def score(self, pixel_values: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Pixel values (B, channels, H, W) → probabilities (B, L), and embeddings where they were asked for.

        Raises:
            ValueError: for a network that gives NaN.
        """
        network = self.network
        pixel_values = pixel_values.to(network.device, network.dtype)
        outputs = network.gkgnet(pixel_values)
        scores = probabilities(network.classify(outputs), network.config.problem_type)
        check_not_nan(scores)
        if self.embeddings is None:
            return scores, None
        embedding = outputs.pooler_output if self.embeddings == "patches" else outputs.label_hidden_state
        if embedding is None:
            raise ValueError("The network has no label nodes, so there are no embeddings of labels")
        return scores, embedding.float().cpu().numpy()


class BatchReader:
    """Reads the pictures of a batch; it is what worker processes do.

    Args:
        processor: the model's image processor.
    """

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor

    def __call__(self, pictures: Sequence[Any]) -> tuple[Tensor | None, dict[int, str]]:
        """N pictures → pixel values of those that can be used, None without any, and why others cannot, by place."""
        read = picture_reader(self.processor)
        pixels, problems = [], {}
        for i, picture in enumerate(pictures):
            try:
                image = picture if isinstance(picture, IMAGE_TYPES) else read(picture)
                pixels.append(to_pixel_values(self.processor, [image]))
            except PictureError as error:
                problems[i] = error.problem
            except (OSError, ValueError, TypeError) as error:
                problems[i] = str(error)
            except (MemoryError, RuntimeError):  # PyTorch raises the second
                problems[i] = "there is not enough memory to prepare it"
        return (torch.cat(pixels) if pixels else None), problems


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, without which it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def _fingerprint(network: GKGNetForImageClassification) -> str:
    """A hash of the weights and the configuration."""
    content = blake2b(network.config.to_json_string(use_diff=False).encode(), digest_size=16)
    for name, tensor in network.state_dict().items():
        content.update(name.encode())
        content.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else str(tensor.item()).encode())
    return content.hexdigest()


def _accelerator() -> str:
    """The device of this process: of several processes on a machine each has its own."""
    if not torch.accelerator.is_available():
        return "cpu"
    kind = torch.accelerator.current_accelerator()
    return f"{kind.type}:{os.environ.get('LOCAL_RANK', 0)}"  # type: ignore[union-attr]


def _are_paths(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (str, os.PathLike)) for value in values)
