"""The gate of groups, on scores whose true error rates are known."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest

from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.data.splits import reference_pairs, split_reference
from services.trainer.evaluation.candidate_metrics import ComparedFeatures, compare_groups
from services.trainer.evaluation.gate import GateCheck
from services.trainer.evaluation.group_gate import ComparedGroup, group_checks
from services.trainer.evaluation.paired_errors import ServedThresholds
from shared.evaluation.operating_point import ScoredPeople, threshold_for
from shared.evaluation.scores import Scores

_IMAGES = 3
_TARGET = 0.01


class _Shift(NamedTuple):
    """Change of the candidate's mean similarities in a group."""

    genuine: float = 0.0
    impostor: float = 0.0


_NONE = _Shift()


def _group(
    name: str, people: int, rng: np.random.Generator, shift: _Shift = _NONE
) -> ComparedGroup:
    """Make a group whose people differ in how well they are recognised.

    Besides the shift, the two versions differ by noise of the same size on people and on pairs.
    """
    person = np.repeat(np.arange(people), _IMAGES)
    first, second = np.triu_indices(len(person), 1)
    sides = np.stack([person[first], person[second]], axis=1).astype(np.int32)
    genuine = sides[:, 0] == sides[:, 1]

    def noise(of_person: float, of_pair: float) -> np.ndarray:
        own = rng.normal(0, of_person, people)
        return own[sides].mean(axis=1) + rng.normal(0, of_pair, len(sides))

    common = np.where(genuine, 0.5, 0.05) + noise(0.1, 0.1)
    parent = common + noise(0.03, 0.03)
    child = common + noise(0.03, 0.03) + np.where(genuine, shift.genuine, shift.impostor)
    scored = ScoredPeople.of(Scores(parent, genuine), sides)
    return ComparedGroup(name, scored, scored.rescored(child))


def _threshold(groups: list[ScoredPeople]) -> float:
    return threshold_for(np.concatenate([each.impostor_similarity for each in groups]), _TARGET)


def _judge(groups: list[ComparedGroup], *, at_target: bool = True) -> dict[str, GateCheck]:
    """Judge groups; each version's threshold keeps the target on all of them together."""
    checks = group_checks(
        groups,
        thresholds=ServedThresholds(
            _threshold([group.parent for group in groups if group.parent]),
            _threshold([group.child for group in groups if group.child]),
        ),
        at_target=at_target,
        seed=0,
    )
    return {check.name: check for check in checks}


def _world(seed: int, shifts: Mapping[str, _Shift], people: int = 30) -> list[ComparedGroup]:
    rng = np.random.default_rng(seed)
    return [_group(name, people, rng, shift) for name, shift in shifts.items()]


def _fnmr(groups: list[ComparedGroup], version: str) -> float:
    scored = [getattr(group, version) for group in groups]
    threshold = _threshold(scored)
    return float(np.concatenate([each.genuine_similarity < threshold for each in scored]).mean())


def test_a_group_that_gets_worse_while_the_mean_gets_better_is_refused() -> None:
    better, worse = _Shift(genuine=0.15), _Shift(genuine=-0.15)
    groups = _world(1, {"a": better, "b": better, "c": better, "d": worse})
    assert _fnmr(groups, "child") < _fnmr(groups, "parent")
    checks = _judge(groups)
    assert not checks["group_fnmr"].passed
    assert not checks["group_fnmr"].undecided
    assert "'d'" in checks["group_fnmr"].detail
    assert checks["group_fnmr"].people == 30
    assert checks["group_fnmr"].pairs == 30 * 3
    assert checks["group_fmr"].passed


def test_false_matches_that_move_into_one_group_are_refused() -> None:
    """The false-match rate of all groups together stays at the target."""
    groups = _world(2, {"a": _NONE, "b": _NONE, "c": _Shift(impostor=0.2)})
    checks = _judge(groups)
    assert not checks["group_fmr"].passed
    assert "'c'" in checks["group_fmr"].detail
    assert not _judge(groups, at_target=False)["group_errors"].passed


def test_all_groups_that_get_worse_are_named() -> None:
    worse, better = _Shift(genuine=-0.15), _Shift(genuine=0.1)
    detail = _judge(_world(3, {"a": worse, "b": worse, "c": better}))["group_fnmr"].detail
    assert "'a'" in detail
    assert "'b'" in detail
    assert "'c'" not in detail


@pytest.mark.parametrize(("people", "at_target"), [(10, True), (25, True), (10, False)])
def test_noise_alone_refuses_at_most_one_candidate_in_twenty(people: int, at_target: bool) -> None:
    names = dict.fromkeys("abcd", _NONE)
    refused = sum(
        not all(
            check.passed
            for check in _judge(_world(seed, names, people), at_target=at_target).values()
        )
        for seed in range(200)
    )
    assert refused <= 10  # of 200


def test_a_group_with_few_people_is_named_and_not_judged() -> None:
    rng = np.random.default_rng(4)
    few = _group("few", 9, rng, _Shift(genuine=-0.4))
    empty = ComparedGroup("empty", None, None)
    groups = [_group("a", 30, rng), _group("b", 30, rng), few, empty]
    checks = _judge(groups)
    assert all(check.passed for check in checks.values())
    for check in checks.values():
        assert "not judged, with fewer than 10 people or 30 pairs: 'few', 'empty'" in check.detail
    alone = _judge([few])
    assert all(check.passed for check in alone.values())
    assert "no group is judged" in alone["group_fnmr"].detail


def test_a_group_that_is_lost_altogether_is_refused() -> None:
    """Everybody changes alike, so the change has no spread."""
    rng = np.random.default_rng(5)
    assert not _judge([_group("a", 30, rng), _group("b", 30, rng, _Shift(genuine=-3))])[
        "group_fnmr"
    ].passed


def test_two_equal_versions_pass() -> None:
    [group] = _world(6, {"a": _NONE})
    checks = _judge([ComparedGroup("a", group.parent, group.parent)])
    assert {name: check.passed for name, check in checks.items()} == {
        "group_fnmr": True,
        "group_fmr": True,
    }


def test_without_groups_there_is_no_check() -> None:
    assert group_checks([], thresholds=ServedThresholds(0, 0), at_target=True, seed=0) == ()


def test_pairs_within_each_group_are_scored_under_both_versions() -> None:
    rng = np.random.default_rng(7)
    persons = np.repeat(np.arange(6), 3)
    groups = ("a", "b", "a", "", "b", "c")
    pairs = reference_pairs(persons, np.flatnonzero(persons < 5), seed=0)
    features = ComparedFeatures(*(rng.normal(size=(18, 8)).astype(np.float32) for _ in range(2)))
    first, second, third = compare_groups(groups, pairs, features)
    assert (first.name, second.name, third.name) == ("a", "b", "c")
    assert third.parent is None
    for group, people in ((first, [0, 2]), (second, [1, 4])):
        assert group.parent is not None and group.child is not None
        assert np.unique(group.child.people).tolist() == people
        assert group.child.genuine_evidence().pairs == 6
        assert group.child.impostor_evidence().pairs == 9
        assert not np.array_equal(group.parent.scores.similarity, group.child.scores.similarity)
    assert compare_groups((), pairs, features) == []


def test_half_of_each_group_is_measured() -> None:
    persons = np.repeat(np.arange(60), 2)
    groups = tuple("a" if person < 20 else "b" if person < 44 else "" for person in range(60))
    faces = ReferenceFaces(np.zeros((120, 112, 112, 3), np.uint8), persons, groups=groups)
    for seed in range(20):
        split = split_reference(faces, seed)
        measured = np.unique(split.pairs.people)
        assert len(measured) == 30
        assert Counter(groups[person] for person in measured) == {"a": 10, "b": 12, "": 8}
        assert not np.isin(persons[split.replayed], measured).any()
        assert split.groups == groups
