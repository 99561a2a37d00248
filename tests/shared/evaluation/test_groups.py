"""Error rates by group, counted by hand, and the ratio of the worst to the geometric mean."""

import math

import numpy as np
import pytest

from shared.evaluation.groups import inequity, measure_groups, pairs_within_groups
from shared.evaluation.results import GroupRate
from shared.model.operating_curve import Evidence, Rate


def embeddings(angles: list[float]) -> np.ndarray:
    """Unit vectors in the plane by angle in degrees; two are alike if their angles are."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def rate(value: float, people: int = 50, pairs: int = 1000) -> GroupRate:
    evidence = Evidence(pairs=pairs, people=people)
    return GroupRate(
        rate=Rate(value=value, low=value, high=value),
        evidence=evidence,
        enough=people >= 10 and pairs >= 30,
    )


def test_rates_are_those_of_pairs_within_the_group() -> None:
    # Two images of each of four people. In the group "near" two people look alike, and nobody in
    # "far" does, but the fourth person looks like the first, who is in the other group.
    angles = [0.0, 10, 5, 15, 120, 200, 8, 12]
    people = np.repeat(np.arange(4), 2)
    images_of = {"near": np.arange(4), "far": np.arange(4, 8), "none": np.arange(0)}
    groups = pairs_within_groups(people, images_of, seed=0)
    found = measure_groups(groups, embeddings(angles), math.cos(math.radians(30)), seed=0)
    by_name = {group.name: group for group in found.groups}
    assert list(by_name) == ["far", "near", "none"]
    near, far, none = by_name["near"], by_name["far"], by_name["none"]
    assert near.fmr.rate is not None and far.fmr.rate is not None and far.fnmr.rate is not None
    assert near.fmr.rate.value == 1.0
    assert near.fmr.evidence == Evidence(pairs=4, people=2)
    assert far.fmr.rate.value == 0.0
    # One of the two genuine pairs, 80 degrees apart, is refused.
    assert far.fnmr.rate.value == 0.5
    assert far.fnmr.evidence == Evidence(pairs=2, people=2)
    assert none.fnmr.rate is None and not none.fnmr.enough
    assert found.fmr_inequity is None
    assert found.fnmr_inequity is None


def test_a_person_with_many_images_counts_with_ten() -> None:
    people = np.array([0] * 40 + [1] * 3)
    [group] = pairs_within_groups(people, {"all": np.arange(43)}, seed=0)
    assert int(group.genuine.sum()) == 45 + 3
    assert int((~group.genuine).sum()) == 30
    assert (group.people[group.genuine, 0] == group.people[group.genuine, 1]).all()
    assert (group.people[~group.genuine, 0] != group.people[~group.genuine, 1]).all()
    assert len(np.unique(np.sort(group.images, axis=1), axis=0)) == len(group.images)


def test_images_of_one_person_make_no_impostors() -> None:
    [group] = pairs_within_groups(np.zeros(2, int), {"one": np.arange(2)}, seed=0)
    found = measure_groups([group], embeddings([0, 1]), 0.5, seed=0).groups[0]
    assert found.fmr.rate is None
    assert found.fnmr.rate is not None


def test_large_groups_stay_within_bounds() -> None:
    people = np.repeat(np.arange(400), 5)
    [group] = pairs_within_groups(people, {"all": np.arange(2000)}, seed=0)
    assert int((~group.genuine).sum()) == 100_000


def test_the_worst_is_compared_with_the_geometric_mean() -> None:
    found = inequity({"a": rate(0.01), "b": rate(0.02), "c": rate(0.04)})
    assert found is not None
    assert (found.worst, found.groups) == ("c", 3)
    assert found.ratio == pytest.approx(2)


def test_groups_with_few_people_or_pairs_take_no_part() -> None:
    rates = {
        "a": rate(0.01),
        "b": rate(0.04),
        "few": rate(0.9, people=9),
        "thin": rate(0.9, pairs=29),
    }
    found = inequity(rates)
    assert found is not None
    assert (found.worst, found.groups) == ("b", 2)
    assert found.ratio == pytest.approx(2)
    del rates["b"]
    assert inequity(rates) is None


@pytest.mark.parametrize(
    ("rates", "ratio"),
    [
        # Half an error of 1000 pairs.
        ({"a": rate(0.002), "b": rate(0.0)}, 0.002 / math.sqrt(0.002 * 0.0005)),
        # Of 30 pairs, half an error is more than the other group's rate.
        ({"a": rate(0.002), "b": rate(0.0, pairs=30)}, 1.0),
    ],
)
def test_a_rate_of_zero_is_half_an_error_and_never_the_worst(
    rates: dict[str, GroupRate], ratio: float
) -> None:
    found = inequity(rates)
    assert found is not None
    assert found.worst == "a"
    assert found.ratio == pytest.approx(ratio)


def test_groups_without_errors_are_not_compared() -> None:
    assert inequity({"a": rate(0.0), "b": rate(0.0)}) is None


def test_intervals_are_over_people() -> None:
    """Ten people of whom each is always or never recognised are ten trials, however many pairs."""
    people = np.repeat(np.arange(20), 8)
    apart = np.array([0.0, 90] * 4)
    angles = np.concatenate([apart if person % 2 else np.zeros(8) for person in range(20)])
    groups = pairs_within_groups(people, {"all": np.arange(160)}, seed=0)
    found = measure_groups(groups, embeddings(angles.tolist()), 0.5, seed=0).groups[0].fnmr.rate
    assert found is not None
    assert found.high - found.low > 0.15
