"""The benchmark's small end: what it writes holds what it says."""

import json
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from benchmarks import __main__ as speed
from benchmarks import contenders, labels, scaling
from benchmarks.contenders import Contender, build
from benchmarks.measure import fresh, imports, interleaved, memory, multiply_adds

TINY = Contender("gkgnet_ti", "default", "float32", 64, 1, "cpu", train=False)


def run(module, tmp_path, *words: str) -> dict:
    """The results of a command, with memory that grows with the nodes in place of new processes."""

    def memory_of(task, contender=None):
        if contender is None:
            return {"cpu": 800.0}
        return {"built_MB": 900.0, "steps_MB": 900.0 + contender.size**2 / 64, "peak_MB": 2000.0}

    arguments = ["benchmarks", *words, "--output", str(tmp_path)]
    with patch.object(module, "fresh", memory_of), patch("sys.argv", arguments), patch.dict("os.environ"):
        module.main()
    return json.loads((tmp_path / "results.json").read_text())


def test_speed_compares_every_path_and_network_with_the_optimised_and_the_reference_path(tmp_path):
    words = ["--networks", "gkgnet_ti", "resnet18", "--sizes", "64", "--devices", "cpu", "--repeats", "1"]
    results = run(speed, tmp_path, *words)

    rows = {(row["network"], row["path"], row["dtype"]): row for row in results["rows"]}
    paths = [("gkgnet_ti", path) for path in ("reference", "optimised", "pytorch", "default", "floor")]
    expected = {(*each, dtype) for each in [*paths, ("resnet18", "timm")] for dtype in ("float32", "bfloat16")}
    assert set(rows) == expected
    reference = rows["gkgnet_ti", "reference", "float32"]
    assert reference["reference_float32_ratio"]["median"] == 1
    for (network, path, dtype), row in rows.items():
        baseline = rows["gkgnet_ti", "optimised", dtype]
        assert row["ratio"]["median"] == pytest.approx(row["seconds"] / baseline["seconds"])
        assert row["reference_float32_ratio"]["median"] == pytest.approx(reference["seconds"] / row["seconds"])
        assert (row["peak_MB"] is None) == (path == "floor")
        assert row["multiply_adds"] == rows[network, path, "float32"]["multiply_adds"] > 0
    text = (tmp_path / "table.md").read_text()
    assert text.count("| resnet18 |") == 2
    assert "### cpu, 64 × 64, batch 1, inference" in text
    assert results["machine"]["threads"] == torch.get_num_threads()
    assert (tmp_path / "speed.png").stat().st_size > 0


def test_a_network_that_does_not_take_the_size_is_left_out_with_a_reason(tmp_path):
    words = ["--networks", "nest_tiny", "resnet18", "gkgnet_ti", "--dtypes", "bfloat16", "--sizes", "72", "--train"]
    results = run(speed, tmp_path, *words, "--devices", "cpu", "--repeats", "1")

    assert "nest_tiny at 72 pixels" in results["left_out"][0]
    assert results["left_out"][0] in (tmp_path / "table.md").read_text()
    ours = [(row["path"], row["dtype"]) for row in results["rows"] if row["network"] == "gkgnet_ti"]
    compared = [(path, "bfloat16") for path in ("reference", "pytorch", "default", "floor")]
    assert ours == [("reference", "float32"), ("default", "float32"), *compared]
    assert {row["network"] for row in results["rows"]} == {"gkgnet_ti", "resnet18"}
    assert all(row["train"] for row in results["rows"])


@pytest.mark.parametrize("networks", [["resnet18"], ["gkgnet_ti", "no_such_network"], ["gkgnet_xl"]])
def test_networks_that_cannot_be_measured_are_refused(networks, capsys):
    with patch("sys.argv", ["benchmarks", "--networks", *networks]), pytest.raises(SystemExit):
        speed.main()
    assert networks[-1] in capsys.readouterr().err


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_floor_makes_all_multiply_adds_of_the_network(train, dtype):
    floor = replace(TINY, path="floor", dtype=dtype, batch_size=2, train=train)
    network = replace(floor, path=contenders.baseline_path(train))
    assert multiply_adds(build(floor)) == multiply_adds(build(network)) > 0


def test_every_round_starts_with_another_contender():
    order = []
    members = [replace(TINY, network=name) for name in "abc"]
    times = interleaved({member: lambda name=member.network: order.append(name) for member in members}, repeats=2)
    assert "".join(order) == "abcbcacab"
    assert all(len(each) == 2 for each in times.values())


@pytest.mark.slow
def test_a_network_needs_more_memory_than_its_imports():
    measured = fresh(memory, replace(TINY, path="optimised"))
    assert fresh(imports)["cpu"] < measured["built_MB"] < measured["steps_MB"] <= measured["peak_MB"]


def test_scaling_fits_time_to_pixels_and_memory_to_nodes(tmp_path):
    results = run(scaling, tmp_path, "--variant", "ti", "--sizes", "64", "128")
    first, second = results["rows"]
    assert (first["nodes"], second["nodes"]) == (256, 1024)
    assert (second["memory_MB"], results["MB_per_1000_nodes"]) == (256, pytest.approx(250))
    assert second["seconds"] / first["seconds"] == pytest.approx(4 ** results["time_exponent"])
    assert "| 128 × 128 | 1,024 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "scaling.png").stat().st_size > 0


def test_labels_are_counted_against_the_first_number_of_them(tmp_path):
    words = [
        "--variant",
        "ti",
        "--size",
        "64",
        "--labels",
        "3",
        "9",
        "--blocks",
        "1,1,1,1",
        "0,0,1,0",
        "--repeats",
        "1",
    ]
    results = run(labels, tmp_path, *words)
    measured = [(row["labels"], row["label_blocks"]) for row in results["rows"]]
    assert measured == [(3, "1,1,1,1"), (9, "1,1,1,1"), (9, "0,0,1,0")]
    assert results["rows"][0]["ratio"]["median"] == 1
    counts = [row["multiply_adds"] for row in results["rows"]]
    assert max(counts[0], counts[2]) < counts[1]
    assert "| 9 | 0,0,1,0 |" in (tmp_path / "table.md").read_text()


def test_the_line_of_memory_goes_through_points_on_a_line():
    rows = [{"pixels": 16 * n, "nodes": n, "seconds": n**1.5, "memory_MB": 3 + 0.01 * n} for n in (100, 400, 900)]
    fitted = scaling.fits(rows)
    assert fitted["time_exponent"] == pytest.approx(1.5)
    assert fitted["MB_per_1000_nodes"] == pytest.approx(10)
    assert fitted["MB_at_no_nodes"] == pytest.approx(3)
    assert fitted["memory_R2"] == pytest.approx(1)
