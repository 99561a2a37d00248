"""How long the serving benchmark measures, and on what machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from shared.model.sessions.cpu import cpu_threads

CALLERS = 32


@dataclass(frozen=True)
class Plan:
    """Durations of one run of the benchmark.

    Attributes:
        rounds: Alternating measurements of ours and theirs.
        slow_s: Seconds of one measurement with iResNet-18.
        fast_s: Seconds of one measurement where calls take a millisecond.
        warm_s: Seconds of load before each of them that do not count.
        swaps: Changes of version in each of the rounds of the swap section.
        overload_s: Seconds of the overload.
        storm_s: Seconds of the storm of cancelled calls.
        install_s: Longest time for another server to be installed, and to start.
        quick: Whether this run only tries the benchmark out.
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
    """The real plan, or tiny durations with ``SERVING_QUICK=1``."""
    return _QUICK if os.environ.get("SERVING_QUICK") == "1" else Plan()


def machine() -> dict[str, object]:
    """What a figure must be read with: cores, threads, load average of 1, 5, 15 minutes."""
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
