"""Training steps beside a busy process, with threads that wait as this package sets them and as PyTorch does.

python -m benchmarks.busy
python -m benchmarks.busy --neighbours none process training --steps 5 --rounds 5
python -m benchmarks.busy --waiting sleeping 1000 10000  # spinning so often before they sleep (GOMP_SPINCOUNT)

Every contender is a process of its own, and all take turns. A round is a few steps of each beside each neighbour.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CHILD = """
import sys, time
if sys.argv[2] == "spinning":
    import torch  # before the package, whose settings then come too late
import gkgnet_hf, timm, torch
import torch.nn.functional as F

size, batch, labels, threads = map(int, sys.argv[3:])
if threads:
    torch.set_num_threads(threads)
torch.manual_seed(0)
pixels, targets = torch.randn(batch, 3, size, size), (torch.rand(batch, labels) < 0.05).float()
if sys.argv[1].startswith("gkgnet"):
    config = gkgnet_hf.GKGNetConfig.from_variant(sys.argv[1][7:], image_size=size, num_labels=labels)
    model = gkgnet_hf.GKGNetForImageClassification(config).train()
    loss = lambda: model(pixels, labels=targets).loss
else:
    model = timm.create_model(sys.argv[1], num_classes=labels).to(memory_format=torch.channels_last).train()
    loss = lambda: F.binary_cross_entropy_with_logits(model(pixels), targets)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

def step():
    loss().backward()
    optimizer.step()
    optimizer.zero_grad()

step()
print(torch.get_num_threads(), flush=True)
for count in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(count)):
        step()
    print((time.perf_counter() - start) / int(count), flush=True)
"""
FROM_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


class Training:
    """A process that trains a network on random images when it is told to."""

    def __init__(self, network: str, waiting: str, options: argparse.Namespace):
        environment = {name: value for name, value in os.environ.items() if name not in FROM_USER}
        if waiting.isdecimal():
            environment["GOMP_SPINCOUNT"] = waiting
        numbers = map(str, (options.image_size, options.batch_size, options.labels, options.threads))
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, network, waiting, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.threads = int(self._answer())

    def seconds(self, steps: int) -> float:
        """Time of a step, the mean of `steps`."""
        self.start(steps)
        return float(self._answer())

    def start(self, steps: int) -> None:
        """Let it take this many steps, without waiting for them."""
        assert self.process.stdin
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"A contender ended with {self.process.wait()}")
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def neighbour(kind: str, waiting: str, options: argparse.Namespace) -> Iterator[None]:
    """What runs beside the contender: nothing, a process of one thread that never rests, or another training."""
    if kind == "none":
        yield
        return
    if kind == "process":
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            yield
        finally:
            busy.kill()
            busy.wait()
        return
    other = Training(options.networks[0], waiting, options)
    try:
        other.start(1_000_000)
        yield
    finally:
        other.close()


def measure(options: argparse.Namespace) -> list[dict]:
    """A row for each network, way of waiting and neighbour."""
    contenders = {
        (network, waiting): Training(network, waiting, options)
        for network in options.networks
        for waiting in options.waiting
    }
    times: dict[tuple[str, str, str], list[float]] = {}
    try:
        for _ in range(options.rounds):
            for kind in options.neighbours:
                for (network, waiting), training in contenders.items():
                    with neighbour(kind, waiting, options):
                        times.setdefault((network, waiting, kind), []).append(training.seconds(options.steps))
    finally:
        for training in contenders.values():
            training.close()
    return [
        {
            "network": network,
            "waiting": waiting,
            "neighbour": kind,
            "threads": contenders[network, waiting].threads,
            "seconds": statistics.median(each),
            "ratio": statistics.median(
                a / b for a, b in zip(each, times[network, waiting, options.neighbours[0]], strict=True)
            ),
        }
        for (network, waiting, kind), each in times.items()
    ]


def table(rows: list[dict], first: str) -> str:
    """The result for a person to read."""
    lines = [f"{'network':<14}{'waiting':<10}{'beside':<10}{'threads':>8}{'s a step':>10}{f'over {first}':>12}"]
    lines += [
        f"{row['network']:<14}{row['waiting']:<10}{row['neighbour']:<10}{row['threads']:>8}{row['seconds']:10.3f}"
        f"{row['ratio']:12.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line asks for and print it, as JSON with `--json`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.busy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["gkgnet_ti", "resnet18"], help="gkgnet_* or timm's")
    parser.add_argument("--neighbours", nargs="+", default=["none", "process"], help="none, process, training")
    parser.add_argument(
        "--waiting",
        nargs="+",
        default=["sleeping", "spinning"],
        help="sleeping (as this package has it), spinning (as PyTorch has it), or a number of spins before sleeping",
    )
    parser.add_argument("--image-size", type=int, default=96, help="side in pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="images a batch")
    parser.add_argument("--labels", type=int, default=87, help="labels of the network")
    parser.add_argument("--threads", type=int, default=0, help="threads of a contender (default: its own choice)")
    parser.add_argument("--steps", type=int, default=1, help="steps of each contender in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = measure(options)
    print(json.dumps(rows, indent=2) if options.json else table(rows, options.neighbours[0]))


if __name__ == "__main__":
    main()
