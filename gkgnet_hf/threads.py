"""What the threads of PyTorch are told in environment variables. They read them once, when PyTorch is loaded."""

import math
import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
WORKERS_PER_CORE = 16  # where each waits for a slow disk or network most of the time


def set_up_threads() -> None:
    """Let threads that wait sleep, and start no more of them than a container may use cores.

    PyTorch runs many small pieces of work on all cores, and after each its threads wait for each other. They spin by
    default. Where another process needs a core, such as one that loads data, each of these waits lasts until the
    scheduler takes the core from a thread that spins. Sleeping costs next to nothing on a machine that has nothing else
    to do. What the user has set stays, and once PyTorch is loaded this changes nothing.

    A process that is forked, as by `multiprocessing` with the method "fork", computes with one thread: it has none of
    its parent's, for which OpenMP would wait forever.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_compute_alone)
    if "torch" in sys.modules:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if (quota := _cores_of_quota()) is not None and quota < _cores_of_affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))


def _compute_alone() -> None:
    set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_num_threads is not None:
        set_num_threads(1)


def usable_cores() -> int:
    """Cores that this process may keep busy, by its affinity and the quota of its container."""
    return min(_cores_of_affinity(), _cores_of_quota() or sys.maxsize)


def check_num_workers(number: int, name: str = "num_workers") -> None:
    """Raise ValueError for a number of processes that read images which is negative, or beyond what cores can serve."""
    most = WORKERS_PER_CORE * usable_cores()
    if not 0 <= number <= most:
        raise ValueError(f"{name} must be between 0 and {most}, {WORKERS_PER_CORE} for each core, got {number}")


def _cores_of_affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores_of_quota() -> int | None:
    """Cores that a control group of Linux (version 2 or 1) grants, which OpenMP does not ask for; None for no limit."""
    try:
        if (limit := CGROUP / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = ((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return max(1, math.ceil(int(quota) / int(period))) if int(quota) > 0 else None
    except (OSError, ValueError):  # no control groups, or "max"
        return None
