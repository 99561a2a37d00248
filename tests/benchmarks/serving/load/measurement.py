"""Runs client processes, and makes figures of what they saw."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

from tests.benchmarks.serving.load.connections import Address
from tests.benchmarks.serving.plan import CALLERS, machine

Figures = dict[str, Any]


@dataclass(frozen=True)
class Sight:
    """What a client process saw; see `patterns.Seen`."""

    ended: list[float]
    took: list[float]
    codes: dict[str, int]
    flaws: dict[str, int]
    began: float
    stopped: float
    cpu_s: float

    def calls_per_second(self, warm_s: float = 0.0) -> float:
        """Answered calls a second while the load was whole, without the first so many seconds."""
        start = self.began + warm_s
        return rate([each for each in self.ended if start <= each <= self.stopped])


def rate(ended: ArrayLike) -> float:
    """Calls a second: the slope of the line through their count over time.

    Answers come in batches, so that a count within a window would be off by up to one.

    Args:
        ended: When each call ended, seconds.

    Returns:
        0 where there are not two moments.
    """
    times = np.sort(np.asarray(ended, np.float64))
    if len(times) < 2 or times[-1] == times[0]:
        return 0.0
    times -= times.mean()
    count = np.arange(len(times)) - (len(times) - 1) / 2
    return float((times @ count) / (times @ times))


class Client:
    """A client process at work.

    Args:
        address: The server's.
        load: See `client_process`.
        order: What else the load takes.
    """

    def __init__(self, address: Address, load: str, **order: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.serving.load.client_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        text = json.dumps({"load": load, "address": asdict(address), **order})
        self._pipe.write(text + "\n")
        self._pipe.flush()

    def finish(self) -> Sight:
        """Wait for its end, having told a load without an end to end.

        Raises:
            RuntimeError: If it failed; its own message is on stderr.
        """
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"a client process ended with {self._process.returncode}")
        return Sight(**json.loads(out))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def _pipe(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin


def ask(address: Address, seconds: float, callers: int = CALLERS, *, repeat: bool = False) -> Sight:
    """Let a client process ask without a pause for so many seconds.

    Raises:
        RuntimeError: If our own server failed a call.
    """
    load: dict[str, Any] = {"seconds": seconds, "callers": callers, "repeat": repeat}
    with Client(address, "without_pause", **load) as client:
        sight = client.finish()
    if address.kind == "grpc" and set(sight.codes) - {"OK"}:
        raise RuntimeError(f"calls failed that should not: {sight.codes}")
    return sight


def alternate(
    ways: Mapping[str, Callable[[], float]], rounds: int, name: str
) -> dict[str, list[float]]:
    """Measure each way in turn, round after round, so that what else happens hits all alike."""
    raw: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, measure in ways.items():
            raw[way].append(measure())
        newest = ", ".join(f"{way} {values[-1]:.4g}" for way, values in raw.items())
        sys.stderr.write(f"{name}, round {number + 1} of {rounds}: {newest}\n")
    return raw


def ratio_of(raw: Mapping[str, list[float]], over: str, under: str) -> Figures:
    """The median over the rounds of one way over another, with all that was measured."""
    pairs = zip(raw[over], raw[under], strict=True)
    return {
        "value": median(a / b for a, b in pairs),
        "medians": {way: median(values) for way, values in raw.items()},
        "raw": dict(raw),
        "machine": machine(),
    }
