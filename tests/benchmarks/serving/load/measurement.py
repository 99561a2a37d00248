"""Client processes, and the figures made from their reports."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

from tests.benchmarks.progress import log
from tests.benchmarks.serving.load.connections import Address
from tests.benchmarks.serving.plan import CALLERS, machine

Figures = dict[str, Any]


@dataclass(frozen=True)
class LoadReport:
    """Report of a client process; see `patterns.LoadRecord`."""

    ended: list[float]
    took: list[float]
    codes: dict[str, int]
    faults: dict[str, int]
    began: float
    stopped: float
    cpu_s: float

    def calls_per_second(self, warm_s: float = 0.0) -> float:
        """Answered calls per second during the load, without its first `warm_s` seconds."""
        start = self.began + warm_s
        return rate([each for each in self.ended if start <= each <= self.stopped])


def rate(ended: ArrayLike) -> float:
    """Calls per second: the slope of the least-squares line through their count over time.

    Answers arrive in batches, so a count within a window would be off by up to a batch.

    Args:
        ended: End of each call, in seconds.

    Returns:
        The rate; 0 when fewer than two calls ended at different times.
    """
    times = np.sort(np.asarray(ended, np.float64))
    if len(times) < 2 or times[-1] == times[0]:
        return 0.0
    times -= times.mean()
    count = np.arange(len(times)) - (len(times) - 1) / 2
    return float((times @ count) / (times @ times))


class ClientProcess:
    """A running client process.

    Args:
        address: The server to call.
        pattern: Name of the load pattern, see `client_process`.
        options: Parameters of the pattern.
    """

    def __init__(self, address: Address, pattern: str, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.serving.load.client_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        text = json.dumps({"pattern": pattern, "address": asdict(address), **options})
        self._pipe.write(text + "\n")
        self._pipe.flush()

    def finish(self) -> LoadReport:
        """Close its stdin, which ends a load without a duration, and wait for its report.

        Raises:
            RuntimeError: It failed; its own message is on stderr.
        """
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"a client process exited with {self._process.returncode}")
        return LoadReport(**json.loads(out))

    def __enter__(self) -> "ClientProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def _pipe(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin


def run_load(
    address: Address, seconds: float, callers: int = CALLERS, *, repeat: bool = False
) -> LoadReport:
    """Run a closed loop in a client process for so many seconds.

    Raises:
        RuntimeError: Our own server failed a call.
    """
    options: dict[str, Any] = {"seconds": seconds, "callers": callers, "repeat": repeat}
    with ClientProcess(address, "closed_loop", **options) as client:
        report = client.finish()
    if address.kind == "grpc" and set(report.codes) - {"OK"}:
        raise RuntimeError(f"the embedder failed calls: {report.codes}")
    return report


def alternate(
    alternatives: Mapping[str, Callable[[], float]], rounds: int, title: str
) -> dict[str, list[float]]:
    """Measure each alternative once per round, so that other load on the machine affects all."""
    raw: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(rounds):
        for name, measure in alternatives.items():
            raw[name].append(measure())
        newest = ", ".join(f"{name} {values[-1]:.4g}" for name, values in raw.items())
        log(f"{title}, round {number + 1} of {rounds}: {newest}")
    return raw


def ratio_of(raw: Mapping[str, list[float]], over: str, under: str) -> Figures:
    """Give the median over the rounds of one alternative over another, and all measurements."""
    pairs = zip(raw[over], raw[under], strict=True)
    return {
        "value": median(a / b for a, b in pairs),
        "medians": {name: median(values) for name, values in raw.items()},
        "raw": dict(raw),
        "machine": machine(),
    }
