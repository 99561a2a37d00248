"""Durations of the serving benchmark, and the description of the machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from shared.model.sessions.cpu import cpu_threads

CALLERS = 32


@dataclass(frozen=True)
class Plan:
    """Durations of one run of the benchmark.

    Attributes:
        rounds: Number of rounds; a round measures each alternative once.
        slow_s: Seconds of one measurement with iResNet-18.
        fast_s: Seconds of one measurement where calls take about a millisecond.
        warm_s: Seconds of warm-up load before each measurement.
        swaps: Number of version changes in each round of the swap section.
        overload_s: Seconds of the overload.
        storm_s: Seconds of the load of cancelled calls.
        install_s: Timeout in seconds to install another server, and to start it.
        quick: Whether this run only tests the benchmark.
    """

    rounds: int = 5
    slow_s: float = 6.0
    fast_s: float = 2.5
    warm_s: float = 1.0
    swaps: int = 10
    overload_s: float = 60.0
    storm_s: float = 12.0
    install_s: float = 180.0
    quick: bool = False


_QUICK = Plan(
    rounds=1, slow_s=1.5, fast_s=0.7, warm_s=0.3, swaps=3, overload_s=3.0, storm_s=2.0, quick=True
)


def make_plan() -> Plan:
    """Make the full plan, or very short durations with ``SERVING_QUICK=1``."""
    return _QUICK if os.environ.get("SERVING_QUICK") == "1" else Plan()


def machine() -> dict[str, object]:
    """Describe the machine: cores, threads, CPU, load average of 1, 5 and 15 minutes."""
    return {
        "cores": os.cpu_count(),
        "engine_threads": cpu_threads(),
        "cpu": _cpu_name(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
