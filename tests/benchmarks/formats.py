"""Speed of a training step by number format and memory format (`make bench-formats`)."""

import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.network.checkpoint import load_checkpoint
from shared.model.network.iresnet import IResNet, IResNetSpec
from shared.model.sessions.cpu import cpu_threads

_IMAGES = 60
_ROUNDS = 5
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
_NUMBERS = {"float32": False, "bfloat16": True}


def run(out: Path) -> dict[str, Any]:
    """Measure forward and backward passes in each format, and print a table.

    Args:
        out: Unused; this benchmark stores nothing.
    """
    del out
    torch.set_num_threads(cpu_threads())
    networks = {
        "iresnet18w16, bundled": load_checkpoint(DEFAULT_CHECKPOINT).network,
        "iresnet18": IResNet(IResNetSpec(blocks=(2, 2, 2, 2))).eval(),
    }
    speeds = {name: _speeds(network) for name, network in networks.items()}
    lines = ["| network | format | images/s |", "|---|---|---|"]
    for name, found in speeds.items():
        lines += [f"| {name} | {kind} | {speed:.0f} |" for kind, speed in found.items()]
    table = "\n".join(lines) + "\n"
    sys.stdout.write(table)
    return {"images": _IMAGES, "speeds": speeds, "table": table}


def _speeds(network: IResNet) -> dict[str, float]:
    took: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        for kind, seconds in _round(network):
            took.setdefault(kind, []).append(seconds)
    return {kind: _IMAGES / median(seconds) for kind, seconds in took.items()}


def _round(network: IResNet) -> Iterator[tuple[str, float]]:
    for (layout, memory), (numbers, mixed) in product(_LAYOUTS.items(), _NUMBERS.items()):
        network.to(memory_format=memory)
        images = torch.rand(_IMAGES, 3, 112, 112).to(memory_format=memory)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            features = network(images)
        features.float().square().sum().backward()
        network.zero_grad()
        yield f"{numbers}, {layout}", time.perf_counter() - start
