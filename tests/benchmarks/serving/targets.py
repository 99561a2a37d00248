"""The bars of the serving benchmark, and what was reached."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """One promise.

    Attributes:
        section: Where its figure is.
        field: Name of the figure there.
        words: The promise as one reads it.
        held: Whether a value keeps it.
    """

    section: str
    field: str
    words: str
    held: Callable[[float], bool]


def _at_least(limit: float) -> tuple[str, Callable[[float], bool]]:
    return f"at least {limit:g}", lambda value: value >= limit


def _at_most(limit: float) -> tuple[str, Callable[[float], bool]]:
    return f"at most {limit:g}", lambda value: value <= limit


BARS = {
    "engine_ratio": Bar("engine", "value", *_at_least(0.95)),
    "latency_ratio": Bar("latency", "value", *_at_most(1.10)),
    "overhead_ratio": Bar("overhead", "value", *_at_least(0.60)),
    "cache_ratio": Bar("cache", "value", *_at_least(20)),
    "int8_ratio": Bar("int8", "value", *_at_least(1.5)),
    "int8.accuracy_loss": Bar("int8", "accuracy_loss", *_at_most(0.003)),
    "swap.failed": Bar("swap", "failed", *_at_most(0)),
    "swap.mixed": Bar("swap", "mixed", *_at_most(0)),
    "swap.wrong": Bar("swap", "wrong", *_at_most(0)),
    "swap.throughput": Bar("swap", "throughput_ratio", *_at_least(0.7)),
    "swap.memory_growth": Bar("swap", "memory_growth", *_at_most(0.05)),
    "overload.p99": Bar("overload", "p99_ratio", *_at_most(3)),
    "overload.memory_growth": Bar("overload", "memory_growth", *_at_most(0.05)),
    "overload.serving": Bar("overload", "always_serving", *_at_least(1)),
    "overload.refused_otherwise": Bar("overload", "refused_otherwise", *_at_most(0)),
    "overload.refused_without_retry_info": Bar(
        "overload", "refused_without_retry_info", *_at_most(0)
    ),
    "cancel": Bar("cancel", "wasted_share", *_at_most(0.05)),
}


def against_bars(sections: Mapping[str, Figures]) -> dict[str, dict[str, Any]]:
    """Hold what was measured against the bars; a peer's bar is to be slower than ours.

    Args:
        sections: What each section gave, by its name; those not measured are left out.
    """
    found = {
        name: _held(bar, sections[bar.section][bar.field])
        for name, bar in BARS.items()
        # A part that this machine lacks the material for has no figure.
        if bar.field in sections.get(bar.section, {})
    }
    for peer, figures in sections.get("peers", {}).items():
        found |= {f"peers.{peer}.{network}": each for network, each in _of_peer(peer, figures)}
    return found


def _held(bar: Bar, value: float) -> dict[str, Any]:
    return {"value": value, "bar": bar.words, "held": bool(bar.held(value))}


def _of_peer(peer: str, figures: Any) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(figures, Mapping) or peer.startswith("machine"):
        return []
    if "reason" in figures:
        return [("installed", {"value": None, "reason": figures["reason"]})]
    faster = Bar("peers", "value", "above 1", lambda value: value > 1)
    networks = {name: each for name, each in figures.items() if isinstance(each, Mapping)}
    return [
        (name, each if "reason" in each else _held(faster, each["value"]))
        for name, each in networks.items()
    ]
