"""What every model and backbone must do. A subclass says how to build one small model."""

import copy

import pytest
import torch
from torch import Tensor, nn


def assert_alike(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    """Relative error of each tensor as a whole: single near ties among neighbours may flip in float32."""
    for a, b in zip(actual, expected, strict=True):
        error = (a.double() - b.double()).norm() / b.double().norm()
        assert error < tolerance, f"relative error {error:.2g}"


def assert_same_weights(actual: nn.Module, expected: nn.Module) -> None:
    """Equal parameters and buffers, to the bit, under the same names."""
    for actual_tensors, expected_tensors in [
        (dict(actual.named_parameters()), dict(expected.named_parameters())),
        (dict(actual.named_buffers()), dict(expected.named_buffers())),
    ]:
        torch.testing.assert_close(actual_tensors, expected_tensors, rtol=0, atol=0)


class ModelTester:
    """One tester for all: forward, backward, any size, save → load, compile, export, half precision, batching."""

    counts_batches_once = True

    def build(self) -> nn.Module:
        raise AssertionError("a subclass builds its model")

    def outputs(self, model: nn.Module, pixel_values: Tensor) -> list[Tensor]:
        """The model's output as a list of tensors whose first axis is the batch."""
        return [model(pixel_values)]

    def expected_shapes(self, batch: int, height: int, width: int) -> list[tuple[int, ...]]:
        raise AssertionError("a subclass knows its shapes")

    def reload(self, model: nn.Module, directory) -> nn.Module:
        raise AssertionError("a subclass saves and loads its model")

    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.build()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:  # real statistics, so that activations neither vanish nor explode
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(8, 3, 64, 64))
        for norm in norms:
            norm.momentum = 0.1
        return model.eval()

    @pytest.fixture
    def pixel_values(self) -> Tensor:
        return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 32), (96, 64), (50, 71), (33, 129), (200, 40)])
    def test_any_size_from_32_pixels(self, model, height, width):
        with torch.no_grad():
            outputs = self.outputs(model, torch.randn(2, 3, height, width))
        assert [tuple(o.shape) for o in outputs] == self.expected_shapes(2, height, width)
        assert all(o.isfinite().all() for o in outputs)

    def test_every_parameter_gets_a_gradient(self, model, pixel_values):
        model.train()
        sum(o.square().sum() for o in self.outputs(model, pixel_values)).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not without

    def test_save_then_load_gives_the_same_weights_and_outputs(self, model, pixel_values, tmp_path):
        reloaded = self.reload(model, tmp_path).eval()
        assert_same_weights(reloaded, model)
        with torch.no_grad():
            assert_alike(self.outputs(reloaded, pixel_values), self.outputs(model, pixel_values))

    def test_a_row_of_a_batch_is_that_image_alone(self, model):
        model, images = model.double(), torch.randn(4, 3, 64, 64, dtype=torch.float64)
        with torch.no_grad():
            together, alone = self.outputs(model, images), self.outputs(model, images[2:3])
        assert_alike([t[2:3] for t in together], alone, tolerance=1e-12)

    def test_compiles_into_one_graph(self, model, pixel_values, backend):
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        with torch.no_grad():
            assert_alike(self.outputs(compiled, pixel_values), self.outputs(model, pixel_values))

    def test_exports(self, model, pixel_values):
        exported = torch.export.export(model, (pixel_values,)).module()
        with torch.no_grad():
            assert_alike(self.outputs(exported, pixel_values), self.outputs(model, pixel_values))

    # How near half precision comes is tested on the reference network: in a small random one, noise grows.
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_in_half_precision_out(self, model, pixel_values, dtype):
        with torch.no_grad():
            half = self.outputs(model.to(dtype), pixel_values.to(dtype))
        assert all(h.dtype == dtype and h.isfinite().all() for h in half)

    def test_autocast_trains(self, model, pixel_values):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sum(o.float().square().mean() for o in self.outputs(model.train(), pixel_values))
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(self, model, pixel_values, use_reentrant):
        model, pixel_values = model.double().train(), pixel_values.double()
        checkpointed = copy.deepcopy(model)
        if hasattr(model, "gradient_checkpointing_enable"):
            checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        elif hasattr(model, "set_grad_checkpointing") and not use_reentrant:
            checkpointed.set_grad_checkpointing()
        else:
            pytest.skip(f"timm's {type(model).__name__} has no gradient checkpointing of this kind")
        results = []
        for network in (model, checkpointed):
            sum(o.square().sum() for o in self.outputs(network, pixel_values)).backward()
            gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
            results.append((gradients, dict(network.named_buffers()) if self.counts_batches_once else None))
        torch.testing.assert_close(*results)

    def test_training_on_one_image_of_one_node_is_one_clear_error(self, model):
        with pytest.raises(
            ValueError, match=r"one image with one node or label, got \(1, \d+, 1, 1\): give two images"
        ):
            self.outputs(model.train(), torch.randn(1, 3, 32, 32))
