"""Performance targets of the serving benchmark, and the comparison of figures with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class PerformanceTarget:
    """A limit for one figure.

    Attributes:
        section: The section that measures the figure.
        field: Name of the figure in the section.
        text: The limit as text.
        is_met: Whether a value is within the limit.
    """

    section: str
    field: str
    text: str
    is_met: Callable[[float], bool]


def _at_least(limit: float) -> tuple[str, Callable[[float], bool]]:
    return f"at least {limit:g}", lambda value: value >= limit


def _at_most(limit: float) -> tuple[str, Callable[[float], bool]]:
    return f"at most {limit:g}", lambda value: value <= limit


TARGETS = {
    "engine_ratio": PerformanceTarget("engine", "value", *_at_least(0.95)),
    "latency_ratio": PerformanceTarget("latency", "value", *_at_most(1.10)),
    "overhead_ratio": PerformanceTarget("overhead", "value", *_at_least(0.60)),
    "cache_ratio": PerformanceTarget("cache", "value", *_at_least(20)),
    "int8_ratio": PerformanceTarget("int8", "value", *_at_least(1.5)),
    "int8.accuracy_loss": PerformanceTarget("int8", "accuracy_loss", *_at_most(0.003)),
    "swap.failed": PerformanceTarget("swap", "failed", *_at_most(0)),
    "swap.mixed": PerformanceTarget("swap", "mixed", *_at_most(0)),
    "swap.wrong": PerformanceTarget("swap", "wrong", *_at_most(0)),
    "swap.throughput": PerformanceTarget("swap", "throughput_ratio", *_at_least(0.7)),
    "swap.memory_growth": PerformanceTarget("swap", "memory_growth", *_at_most(0.05)),
    "overload.p99": PerformanceTarget("overload", "p99_ratio", *_at_most(3)),
    "overload.memory_growth": PerformanceTarget("overload", "memory_growth", *_at_most(0.05)),
    "overload.serving": PerformanceTarget("overload", "always_serving", *_at_least(1)),
    "overload.refused_otherwise": PerformanceTarget("overload", "refused_otherwise", *_at_most(0)),
    "overload.refused_without_retry_info": PerformanceTarget(
        "overload", "refused_without_retry_info", *_at_most(0)
    ),
    "cancel": PerformanceTarget("cancel", "wasted_share", *_at_most(0.05)),
    "hostile.p99": PerformanceTarget("hostile", "p99_ratio", *_at_most(3)),
    "hostile.memory": PerformanceTarget("hostile", "most_bytes", *_at_most(1e9)),
}


def compare_with_targets(sections: Mapping[str, Figures]) -> dict[str, dict[str, Any]]:
    """Compare the measured figures with their targets.

    The target for another server is that ours is faster.

    Args:
        sections: The figures of each measured section, by its name.
    """
    compared = {
        name: _compare(target, sections[target.section][target.field])
        for name, target in TARGETS.items()
        # A figure is missing where this machine lacks the data for it.
        if target.field in sections.get(target.section, {})
    }
    for peer, figures in sections.get("peers", {}).items():
        compared |= {f"peers.{peer}.{name}": each for name, each in _compare_peer(peer, figures)}
    return compared


def _compare(target: PerformanceTarget, value: float) -> dict[str, Any]:
    return {"value": value, "bar": target.text, "held": bool(target.is_met(value))}


def _compare_peer(peer: str, figures: Any) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(figures, Mapping) or peer.startswith("machine"):
        return []
    if "reason" in figures:
        return [("installed", {"value": None, "reason": figures["reason"]})]
    faster = PerformanceTarget("peers", "value", "above 1", lambda value: value > 1)
    networks = {name: each for name, each in figures.items() if isinstance(each, Mapping)}
    return [
        (name, each if "reason" in each else _compare(faster, each["value"]))
        for name, each in networks.items()
    ]
