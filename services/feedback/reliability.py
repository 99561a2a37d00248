"""How far each annotator can be relied on, from pairs that say so: a pure function over arrays.

The estimate of Dawid and Skene 1979 (Applied Statistics 28, "Maximum likelihood estimation of
observer error-rates using the EM algorithm") with Dirichlet priors: an annotator of few votes is
taken to be as the average one is, and the average one, while nothing is known, to be right most
of the time, which also tells the two classes apart.

crowd-kit 1.4.2 estimates the same without priors or pairs of known truth, takes more time and
memory for it, and brings dozens of packages along, transformers among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.feedback.domain import Label

Values = NDArray[np.float64]

# The order of the answers in every array.
ANSWERS: Final = (Label.SAME, Label.DIFFERENT, Label.UNSURE)
_SAME, _DIFFERENT = 0, 1
_ROUNDS, _SETTLED = 100, 1e-5
# Answers on a genuine and on an impostor pair, in votes, before anybody is known.
_EXPECTED: Final = np.array([[8.5, 1.0, 0.5], [1.0, 8.5, 0.5]])
# An annotator's own votes are mixed with so many of the average annotator, of either class.
_VOTES_OF_THE_AVERAGE: Final = 10.0
# Nobody makes up more of the average than somebody of so many votes, however many theirs are.
_HEARD_AT_MOST: Final = 100.0


@dataclass(frozen=True, slots=True)
class Ballots:
    """V votes of A annotators on P pairs that several people labelled or whose truth is known.

    Attributes:
        names: Of the annotators.
        pair: int32 [V], 0..P-1.
        annotator: int32 [V], 0..A-1, nobody twice on a pair.
        answer: int8 [V], places in `ANSWERS`.
        truth: float64 [P], 1 for a pair known to be genuine, 0 for an impostor, NaN if unknown.
    """

    names: Sequence[str]
    pair: NDArray[np.int32]
    annotator: NDArray[np.int32]
    answer: NDArray[np.int8]
    truth: Values


@dataclass(frozen=True, slots=True)
class Estimate:
    """How A annotators answer.

    Attributes:
        names: Of the annotators.
        overlap: int64 [A], votes that it rests on.
        pairs: That these are on.
        rates: float64 [A, 2, 3], how often each gives each answer on a genuine pair and on an
            impostor pair; sums to 1 over the answers.
        average: float64 [2, 3], the same of the average annotator.
    """

    names: Sequence[str]
    overlap: NDArray[np.int64]
    pairs: int
    rates: Values
    average: Values

    @property
    def votes(self) -> int:
        """How many it rests on."""
        return int(self.overlap.sum())


def log_odds(rates: Values) -> Values:
    """Give the log odds of genuine after each answer: float64 [..., 3] of rates [..., 2, 3]."""
    return np.asarray(np.log(rates[..., _SAME, :] / rates[..., _DIFFERENT, :]))


def estimate(ballots: Ballots) -> Estimate:
    """Estimate how annotators answer; the same for the same ballots."""
    people, pairs = len(ballots.names), len(ballots.truth)
    known = ~np.isnan(ballots.truth)
    cell = ballots.annotator * np.int32(len(ANSWERS)) + ballots.answer
    genuine = np.where(known, ballots.truth, _first_guess(ballots, pairs))
    given = _tally(cell, None, people)
    for _ in range(_ROUNDS):
        average, rates = _rates(given, _tally(cell, genuine[ballots.pair], people))
        said = log_odds(rates).ravel()[cell]
        odds = np.bincount(ballots.pair, said, pairs) + _prior(genuine[~known])
        before = genuine
        genuine = np.where(known, ballots.truth, 1 / (1 + np.exp(-np.clip(odds, -50, 50))))
        if np.abs(genuine - before).max(initial=0.0) < _SETTLED:
            break
    return Estimate(ballots.names, given.sum(axis=1).astype(np.int64), pairs, rates, average)


def _first_guess(ballots: Ballots, pairs: int) -> Values:
    """Share of SAME among the votes that say SAME or DIFFERENT, half a vote for each added."""
    same = np.bincount(ballots.pair, ballots.answer == _SAME, pairs)
    different = np.bincount(ballots.pair, ballots.answer == _DIFFERENT, pairs)
    return np.asarray((same + 0.5) / (same + different + 1))


def _tally(cell: NDArray[np.int32], weight: Values | None, people: int) -> Values:
    """Sum the votes of each annotator by answer: float64 [A, 3]."""
    sums = np.bincount(cell, weight, people * len(ANSWERS))
    return sums.reshape(people, len(ANSWERS)).astype(np.float64)


def _rates(given: Values, on_genuine: Values) -> tuple[Values, Values]:
    """Give the rates of the average annotator, [2, 3], and of each, [A, 2, 3]."""
    counts = np.stack([on_genuine, given - on_genuine], axis=1)
    heard = np.minimum(1.0, _HEARD_AT_MOST / np.maximum(given.sum(axis=1), 1.0))
    average = _shares(_EXPECTED + (counts * heard[:, None, None]).sum(axis=0))
    return average, _shares(counts + _VOTES_OF_THE_AVERAGE * average)


def _shares(counts: Values) -> Values:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


def _prior(genuine: Values) -> float:
    """Log odds of a pair of unknown truth before its votes."""
    share = (genuine.sum() + 1) / (len(genuine) + 2)
    return float(np.log(share / (1 - share)))
