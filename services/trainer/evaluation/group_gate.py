"""Gate of the groups of people: no group may get worse under a candidate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from services.trainer.evaluation.gate import GateCheck
from services.trainer.evaluation.paired_errors import ServedThresholds
from shared.evaluation.groups import FEWEST_PAIRS, FEWEST_PEOPLE, is_enough
from shared.evaluation.operating_point import PeopleBootstrap, RoundRates, ScoredPeople
from shared.model.operating_curve import Evidence

# Chance of refusing a candidate under which no group is worse.
_FALSE_REFUSALS: Final = 0.05
# Of each rate that is judged.
_WORDS: Final = {
    "group_fnmr": "FNMR",
    "group_fmr": "FMR",
    "group_errors": "mean of FNMR and FMR",
}
_AT_TARGET: Final = ("group_fnmr", "group_fmr")
_EQUAL_WEIGHTS: Final = ("group_errors",)
_MOST_NAMED: Final = 5


@dataclass(frozen=True)
class ComparedGroup:
    """Pairs within a group, scored under two versions.

    Attributes:
        name: Name of the group.
        parent: Scores of the parent; None if the group has no pair.
        child: The candidate's scores of the same pairs.
    """

    name: str
    parent: ScoredPeople | None
    child: ScoredPeople | None


def group_checks(
    groups: Sequence[ComparedGroup],
    *,
    thresholds: ServedThresholds,
    at_target: bool,
    seed: int,
) -> tuple[GateCheck, ...]:
    """Check that no group gets worse under a candidate, beyond the interval of its change.

    The change is paired: both versions are measured in the same samples of a group's people. Its
    interval is Student's, with the standard error over people, and holds for all groups and rates
    together (Bonferroni). Groups with too few people or pairs are named and not judged.

    Args:
        groups: The groups.
        thresholds: Thresholds of the two versions.
        at_target: Whether the thresholds keep a target false-match rate. FNMR and FMR are then
            judged one by one. Otherwise the thresholds weigh both errors equally, and their mean
            is judged, since a threshold that moves a little raises one and lowers the other.
        seed: Seed of the bootstrap.

    Returns:
        A check for each rate, on the group that is nearest to its limit or furthest beyond it;
        none without groups.
    """
    if not groups:
        return ()
    measured = {group.name: _measure(group, thresholds, seed) for group in groups}
    names = _AT_TARGET if at_target else _EQUAL_WEIGHTS
    compared = sum(name in changes for name in names for changes in measured.values())
    return tuple(_check(name, measured, compared) for name in names)


@dataclass(frozen=True)
class _GroupChange:
    """Change of an error rate of a group; `error` is its standard error over people."""

    before: float
    after: float
    error: float
    evidence: Evidence

    @property
    def rise(self) -> float:
        return self.after - self.before

    def margin(self, compared: int) -> float:
        """Return the half of the interval, which holds for so many comparisons together."""
        people = self.evidence.people
        level = 1 - _FALSE_REFUSALS / compared
        return float(student.ppf(level, people - 1) * self.error * np.sqrt(people / (people - 1)))


class _Sampled(NamedTuple):
    """An error rate on all pairs, and in each round of the bootstrap."""

    value: float
    rounds: RoundRates


def _measure(
    group: ComparedGroup, thresholds: ServedThresholds, seed: int
) -> dict[str, _GroupChange]:
    """Measure the changes of the rates that a group has enough people and pairs for."""
    if group.parent is None or group.child is None:
        return {}
    bootstrap = PeopleBootstrap(group.child, seed)
    genuine, impostor = group.child.genuine_evidence(), group.child.impostor_evidence()
    old_fnmr, old_fmr = _rates(group.parent, thresholds.parent, bootstrap)
    new_fnmr, new_fmr = _rates(group.child, thresholds.child, bootstrap)
    found = {}
    if is_enough(genuine):
        found["group_fnmr"] = _change(old_fnmr, new_fnmr, genuine)
    if is_enough(impostor):
        found["group_fmr"] = _change(old_fmr, new_fmr, impostor)
    if len(found) == 2:
        both = Evidence(
            pairs=genuine.pairs + impostor.pairs, people=min(genuine.people, impostor.people)
        )
        found["group_errors"] = _change(_mean(old_fnmr, old_fmr), _mean(new_fnmr, new_fmr), both)
    return found


def _rates(
    pairs: ScoredPeople, threshold: float, bootstrap: PeopleBootstrap
) -> tuple[_Sampled, _Sampled]:
    """Return FNMR and FMR."""
    rejected = pairs.genuine_similarity < threshold
    accepted = pairs.impostor_similarity >= threshold
    return (
        _Sampled(_share(rejected), bootstrap.fnmr(rejected)),
        _Sampled(_share(accepted), bootstrap.fmr(accepted)),
    )


def _share(wrong: NDArray[np.bool_]) -> float:
    return float(wrong.mean()) if wrong.size else math.nan


def _mean(fnmr: _Sampled, fmr: _Sampled) -> _Sampled:
    return _Sampled((fnmr.value + fmr.value) / 2, (fnmr.rounds + fmr.rounds) / 2)


def _change(before: _Sampled, after: _Sampled, evidence: Evidence) -> _GroupChange:
    error = float(np.nanstd(after.rounds - before.rounds))
    return _GroupChange(before.value, after.value, error, evidence)


def _check(
    name: str, measured: Mapping[str, Mapping[str, _GroupChange]], compared: int
) -> GateCheck:
    changes = {group: found[name] for group, found in measured.items() if name in found}
    few = [group for group in measured if group not in changes]
    unjudged = (
        f"; not judged, with fewer than {FEWEST_PEOPLE} people or {FEWEST_PAIRS} pairs: "
        f"{_listed(few)}"
        if few
        else ""
    )
    if not changes:
        return GateCheck(name, True, 0.0, 0.0, f"{_WORDS[name]}: no group is judged{unjudged}")
    excess = {group: one.rise - one.margin(compared) for group, one in changes.items()}
    worst = max(excess, key=excess.__getitem__)
    worse = [group for group, beyond in excess.items() if beyond > 0 and group != worst]
    change = changes[worst]
    margin = change.margin(compared)
    others = f", and worse in {_listed(worse)}" if worse else ""
    return GateCheck(
        name,
        change.rise <= margin,
        change.rise,
        margin,
        f"{_WORDS[name]} within the group {worst!r} {change.before:.3%} -> {change.after:.3%}, "
        f"nearest to its limit of {len(changes)} groups{others}; a rise within its interval is "
        f"allowed, with 95 % confidence for all {compared} comparisons together{unjudged}",
        max(-1.0, change.rise - margin),
        min(1.0, change.rise + margin),
        change.evidence.people,
        change.evidence.pairs,
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(map(repr, names[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
