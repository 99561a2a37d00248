"""Table of the robustness benchmark: each row with its bar and both procedures' figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Bar:
    """What a row must hold.

    Attributes:
        prefix: Beginning of the names of the rows.
        text: For the table.
        holds: Tells from the figures of a row.
    """

    prefix: str
    text: str
    holds: Callable[[Row], bool]


def _limits(missed: int, flips: int, cosine: float = -1.0) -> Callable[[Row], bool]:
    def holds(row: Row) -> bool:
        today = row["today"]
        return (
            today["missed"] <= missed
            and today["genuine_flips"] <= flips
            and today["mean_cosine"] >= cosine
        )

    return holds


def _refused_or_right(row: Row) -> bool:
    return bool(row["today"]["genuine_flips"] <= 6)


def _as_before(row: Row) -> bool:
    today = row["today"]
    flips = today["genuine_flips"] + today["impostor_flips"]
    return bool(today["missed"] == 0 and flips <= 1 and today["mean_cosine"] >= 0.99)


# The first bar that fits the name of a row is its bar.
BARS = (
    Bar("as they are", "cosine >= 0.99, <= 1 decision changed", _as_before),
    Bar("turned by any", "<= 2 flips, cosine >= 0.97", _limits(0, 2, 0.97)),
    Bar("turned by", "<= 1 flipped or missed", _limits(0, 1)),
    Bar("tilted", "<= 2 flips, cosine >= 0.97", _limits(0, 2, 0.97)),
    Bar("x0.5", "cosine >= 0.95", _limits(0, 2, 0.95)),
    Bar("x", "cosine >= 0.97", _limits(0, 2, 0.97)),
    Bar("12 MP, face 2 %", "<= 6 missed, <= 2 flips", _limits(6, 2)),
    Bar("12 MP", "0 missed, <= 2 flips", _limits(0, 2)),
    Bar("15 % cut", "<= 3 flips", _limits(0, 3)),
    Bar("30 % cut", "refused or <= 6 flips", _refused_or_right),
    Bar("two faces", "200 of 200", lambda row: bool(row["today"]["right"] == row["today"]["of"])),
    Bar(
        "time per",
        "<= 1.6 x the old procedure's",
        lambda row: bool(row["today"]["ms"] <= 1.6 * row["old"]["ms"]),
    ),
)


def bar_of(name: str) -> Bar:
    """Return the bar of a row."""
    return next(bar for bar in BARS if name.startswith(bar.prefix))


def make_table(rows: Mapping[str, Row]) -> str:
    """Make a Markdown table; the last column says whether today's figures hold the bar."""
    lines = [["variant", "old procedure", "today", "bar", "held"], ["---"] * 5]
    for name, row in rows.items():
        bar = bar_of(name)
        held = "yes" if bar.holds(row) else "**no**"
        lines.append([name, _figures(row["old"]), _figures(row["today"]), bar.text, held])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _figures(figures: Mapping[str, Any]) -> str:
    if "ms" in figures:
        return f"{figures['ms']:.1f} ms"
    if "right" in figures:
        return f"{figures['right']} of {figures['of']}"
    return (
        f"{figures['missed']} missed, {figures['genuine_flips']} + {figures['impostor_flips']} "
        f"flips, cosine {figures['mean_cosine']:.3f}"
    )
