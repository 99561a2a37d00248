"""The ways to choose pairs, and the mix of them that is the default."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Strategy(StrEnum):
    """By what a pair was chosen."""

    UNCERTAINTY = "uncertainty"
    DISAGREEMENT = "disagreement"
    HARD = "hard"
    RANDOM = "random"
    GOLD = "gold"


# What the default asks for, beside the random share; by `make bench-selection`.
MIX: Final[Mapping[Strategy, float]] = {
    Strategy.HARD: 0.7,
    Strategy.DISAGREEMENT: 0.2,
    Strategy.UNCERTAINTY: 0.1,
}
