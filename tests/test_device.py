"""Claims that a GPU could break, made on one where there is one and on the CPU elsewhere."""

import pytest
import torch
from safetensors.torch import load_file

from gkgnet_hf import GKGNetForImageClassification, load_released_checkpoint
from gkgnet_hf.modeling import group_knn
from gkgnet_hf.modeling.group_knn import find_neighbors, find_neighbors_reference, max_relative
from gkgnet_hf.modeling.vision_gnn import position_bias

from .drawing import draw_checkpoint, draw_image
from .test_group_knn import distances_to
from .test_models import NUM_LABELS, small_config
from .test_reference import GKGNET_REFERENCE, relative_error

DEVICE = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


@pytest.fixture
def released():
    return load_released_checkpoint(draw_checkpoint("gkgnet_t_224_labels80", 1, 6)).to(DEVICE)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)],
)
def test_logits_match_the_released_network(released, monkeypatch, dtype, tolerance):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # in which PyTorch convolves float32 on GPUs
    expected = load_file(GKGNET_REFERENCE)["logits"]
    with torch.no_grad():
        logits = released.to(dtype)(draw_image((2, 3, 224, 224), 1).to(DEVICE, dtype)).logits
    assert logits.dtype == dtype
    assert relative_error(logits.cpu(), expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_comes_near_the_released_network(released, dtype):
    expected = load_file(GKGNET_REFERENCE)["logits"]
    with torch.no_grad(), torch.autocast(DEVICE.type, dtype=dtype):
        logits = released(draw_image((2, 3, 224, 224), 1).to(DEVICE)).logits
    assert relative_error(logits.cpu(), expected) < 3e-2


@pytest.mark.parametrize("piece", [1 << 12, 1 << 25])
def test_search_in_pieces_is_the_reference_search(monkeypatch, piece):
    monkeypatch.setattr(group_knn, "CPU_PIECE", piece)
    monkeypatch.setattr(group_knn, "DEVICE_PIECE", piece)
    features = torch.randn(3, 2, 28 * 20, 16, device=DEVICE, dtype=torch.float64)
    sources = torch.randn(3, 2, 14 * 10, 16, device=DEVICE, dtype=torch.float64)
    bias = position_bias(torch.zeros(1, 32, 28, 20, device=DEVICE, dtype=torch.float64), 2)
    found = find_neighbors(features, sources, 9, 2, bias)
    assert torch.equal(found, find_neighbors_reference(features, sources, 9, 2, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("side", "ratio", "dim", "dilation"),
    [(28, 2, 40, 1), (14, 1, 200, 3), (9, 1, 320, 5), (9, 1, 24, 8), (1, 1, 24, 1)],
)
def test_with_and_without_kernels_search_and_aggregation_are_the_same(monkeypatch, side, ratio, dim, dilation, dtype):
    grid = torch.zeros(1, 2 * dim, side, side + 3, device=DEVICE)
    bias = position_bias(grid, ratio)
    destinations = torch.randn(3, 2, side * (side + 3), dim, device=DEVICE, dtype=dtype)
    sources = torch.randn(3, 2, (side // ratio) * ((side + 3) // ratio), dim, device=DEVICE, dtype=dtype)
    sources.requires_grad_()
    found, aggregated, gradients = {}, {}, {}
    for kernels in ("auto", "off"):
        monkeypatch.setenv("GKGNET_KERNELS", kernels)
        found[kernels] = find_neighbors(destinations, sources.detach(), 9, dilation, bias)
        aggregated[kernels] = max_relative(destinations, sources, found["auto"])
        (gradients[kernels],) = torch.autograd.grad(aggregated[kernels].float().square().sum(), sources)
    ends = destinations.float(), sources.detach().float(), bias
    torch.testing.assert_close(distances_to(found["auto"], *ends), distances_to(found["off"], *ends), rtol=0, atol=1e-5)
    assert torch.equal(aggregated["auto"], aggregated["off"])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(gradients["auto"], gradients["off"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_mixed_precision_training_learns(checkpointing):
    model = GKGNetForImageClassification(small_config()).to(DEVICE).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    images, labels = torch.randn(16, 3, 64, 64, device=DEVICE), torch.randint(0, 2, (16, NUM_LABELS), device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_inductor_compiles_a_training_step():
    torch.compiler.reset()
    two_stages = dict(hidden_sizes=(8, 16), depths=(1, 1), pooling_ratios=(2, 1), num_label_blocks=(0, 1))
    model = GKGNetForImageClassification(small_config(**two_stages)).to(DEVICE).train()
    images, labels = torch.randn(4, 3, 64, 64, device=DEVICE), torch.ones(4, NUM_LABELS, device=DEVICE)
    expected = model(images, labels=labels).loss
    loss = torch.compile(model, fullgraph=True)(images, labels=labels).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=1e-2)
    assert all(p.grad.isfinite().all() for p in model.parameters())
