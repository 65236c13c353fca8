"""Time in interleaved rounds, memory and largest batches in processes of their own."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import timm
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from .contenders import Contender, Step, baseline_path, build


def machine() -> dict[str, str | int | float]:
    """What the measurements ran on, and when."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": torch.get_num_threads(),
        "memory_GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "transformers": transformers.__version__,
        "date": date.today().isoformat(),
    }


def seconds(step: Step, device: str) -> float:
    """Time of one step."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    step()
    synchronize()
    return time.perf_counter() - start


def interleaved(steps: dict[Contender, Step], repeats: int) -> dict[Contender, list[float]]:
    """Seconds of every contender in every round; each round starts with another one, and the first is dropped."""
    times: dict[Contender, list[float]] = {contender: [] for contender in steps}
    order = list(steps)
    for _ in tqdm(range(repeats + 1), desc="Rounds", leave=False):
        for contender in order:
            times[contender].append(seconds(steps[contender], contender.device))
        order = order[1:] + order[:1]
    return {contender: each[1:] for contender, each in times.items()}


def rows(members: list[Contender], repeats: int) -> list[dict]:
    """A row for each of the contenders, which are measured against each other."""
    steps = {contender: build(contender) for contender in tqdm(members, desc="Building", leave=False)}
    counted = {c.network: multiply_adds(steps[c]) for c in members if c.path in ("reference", "timm")}
    times = interleaved(steps, repeats)
    reference = next(c for c in members if (c.path, c.dtype) == ("reference", "float32"))  # of the first GKGNet
    baseline = replace(reference, path=baseline_path(reference.train))
    return [
        {
            **asdict(contender),
            "seconds": statistics.median(each),
            "ratio": spread(each, times[replace(baseline, dtype=contender.dtype)]),
            "reference_float32_ratio": spread(times[reference], each),
            "multiply_adds": counted[contender.network],
        }
        for contender, each in times.items()
    ]


def spread(above: list[float], below: list[float]) -> dict[str, float]:
    """Median and range of the ratio over the rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def multiply_adds(step: Step) -> int:
    """Multiply-adds of one step."""
    # The other attention kernels of CPU have no formula.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return counter.get_total_flops() // 2


def fresh(task: Callable[..., dict], contender: Contender | None = None) -> dict:
    """What the task, `memory`, `imports` or `largest_batch`, gives in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.measure", task.__name__]
    if contender:
        command.append(json.dumps(asdict(contender)))
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def imports() -> dict[str, float]:
    """Peak memory of this process, which only imports, in MB."""
    return {"cpu": peak_memory("cpu"), "cuda": 0.0}


def memory(contender: Contender) -> dict[str, float]:
    """Memory of this process in MB: once the contender is built, at the peak of two steps, and at its very peak."""
    step = build(contender)
    building = peak_memory(contender.device)
    reset_peak(contender.device)
    built = peak_memory(contender.device)
    for _ in range(2):
        seconds(step, contender.device)
    steps = peak_memory(contender.device)
    return {"built_MB": built, "steps_MB": steps, "peak_MB": max(building, steps)}


def reset_peak(device: str) -> None:
    """Let `peak_memory` forget what is free again, where the system can."""
    clear_refs = Path("/proc/self/clear_refs")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif clear_refs.exists():
        clear_refs.write_text("5")


def peak_memory(device: str) -> float:
    """Peak memory of this process in MB; on CUDA that of PyTorch's tensors."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    if kilobytes:  # ru_maxrss of Linux would count what the parent of this process held
        return kilobytes[0] * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes a unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def largest_batch(contender: Contender) -> dict[str, float]:
    """The largest batch that fits on the GPU, to a sixteenth, and images a second with it, median of 3 steps."""
    fits, fails = 0, 0
    rate = 0.0
    while not fails or fails - fits > max(1, fits // 16):
        batch_size = (fits + fails) // 2 if fails else max(1, 2 * fits)
        try:
            step = build(replace(contender, batch_size=batch_size))
            times = [seconds(step, contender.device) for _ in range(4)]
        except RuntimeError:  # out of memory, or more elements than a kernel can count
            fails = batch_size
        else:
            fits, rate = batch_size, batch_size / statistics.median(times[1:])
        step = None  # frees it before the next
        torch.cuda.empty_cache()
    return {"batch_size": fits, "images_per_s": rate}


if __name__ == "__main__":
    tasks = {task.__name__: task for task in (imports, memory, largest_batch)}
    print(json.dumps(tasks[sys.argv[1]](*(Contender(**json.loads(word)) for word in sys.argv[2:]))))
