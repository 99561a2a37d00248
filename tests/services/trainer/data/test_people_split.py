"""The split of the people, and the refusal of feedback that no candidate could be judged on."""

import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.data.labels import (
    MIN_GENUINE_PAIRS,
    MIN_PEOPLE,
    LabelledPair,
    images_of,
)
from services.trainer.data.pair_graph import PairGraph, build_graph
from services.trainer.data.people_split import Need, require_people, split_people
from services.trainer.data.splits import split_feedback
from shared.errors import PreconditionFailed


def graph_of(pairs: list[LabelledPair]) -> PairGraph:
    return build_graph(sorted(images_of(pairs)), pairs)


def people_with(images: list[int]) -> list[LabelledPair]:
    """Pairs of neighbouring images of people, and of each person with the next one."""
    names = [[f"{p:03d}-{i:02d}" for i in range(count)] for p, count in enumerate(images)]
    same = [LabelledPair(a, b, same=True) for own in names for a, b in pairwise(own)]
    different = [LabelledPair(one[0], other[0], same=False) for one, other in pairwise(names)]
    return [*same, *different]


def refusal(pairs: list[LabelledPair]) -> str | None:
    try:
        require_people(graph_of(pairs))
    except PreconditionFailed as error:
        return str(error)
    return None


def missing(text: str) -> int:
    found = re.search(r"at least (\d+) more pairs SAME, each of another person", text)
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("images", [[2] * 150, [2] * 50, [3] * 30, [2] * 40 + [6] * 5])
def test_the_held_out_people_are_enough_for_the_gate(images: list[int], seed: int) -> None:
    pairs = people_with(images)
    split = split_feedback(sorted(images_of(pairs)), pairs, seed)
    held_out, validation = split.held_out, split.validation
    assert len(np.unique(held_out.people[held_out.genuine])) >= MIN_PEOPLE
    assert held_out.genuine.sum() >= MIN_GENUINE_PAIRS
    assert len(np.unique(validation.people[validation.genuine])) >= 6
    assert len(np.unique(split.graph.person[split.training])) >= 14


def test_no_more_people_are_held_out_than_the_gate_needs() -> None:
    pairs = people_with([2] * 150)
    split = split_feedback(sorted(images_of(pairs)), pairs, seed=0)
    assert split.held_out.genuine.sum() == MIN_GENUINE_PAIRS
    assert len(split.training) == 2 * (150 - 30 - 15)


@pytest.mark.parametrize(
    ("images", "least"),
    [([2] * 49, 1), ([2] * 30, 20), ([3] * 29, 1), ([3] * 20, 10), ([], 50), ([20] * 5, 45)],
)
def test_a_refusal_says_how_many_labels_are_missing(images: list[int], least: int) -> None:
    text = refusal(people_with(images))
    assert text is not None
    assert missing(text) == least
    assert "labelled DIFFERENT are not missing" in text
    assert refusal(people_with(images + [2] * least)) is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 6), max_size=60))
def test_the_missing_labels_are_enough_and_one_fewer_is_not(images: list[int]) -> None:
    text = refusal(people_with(images))
    if text is not None:
        more = missing(text)
        assert refusal(people_with(images + [2] * (more - 1))) is not None
        assert refusal(people_with(images + [2] * more)) is None


def test_a_person_on_too_many_images_is_named_in_the_refusal() -> None:
    text = refusal(people_with([30, *[2] * 40]))
    assert text is not None
    assert "1 of the people are on more than 10% of the pictures" in text


@st.composite
def labelled(draw: st.DrawFn) -> list[LabelledPair]:
    names = [f"{number:02d}" for number in range(draw(st.integers(60, 90)))]
    couples = draw(
        st.lists(st.sampled_from(list(combinations(names[:20], 2))), unique=True, max_size=20)
    )
    pairs = {couple: draw(st.booleans()) for couple in couples}
    pairs |= dict.fromkeys(zip(names[20::2], names[21::2], strict=False), True)
    return [LabelledPair(a, b, same) for (a, b), same in pairs.items()]


@settings(deadline=None)
@given(labelled(), st.integers(0, 5), st.floats(0, 0.5), st.floats(0, 0.2))
def test_no_image_and_no_person_is_on_two_sides(
    pairs: list[LabelledPair], seed: int, validation: float, held_out: float
) -> None:
    graph = graph_of(pairs)
    found = split_people(
        graph, seed, validation=Need(validation, 1), held_out=Need(held_out, 2, pairs=2)
    )
    sides = [found.training, found.validation, found.held_out]
    assert sorted(np.concatenate(sides)) == list(range(len(graph.images)))
    for one, other in combinations(sides, 2):
        assert not set(graph.component[one]) & set(graph.component[other])
    side_of = {image: number for number, side in enumerate(sides) for image in side}
    number = {sha: index for index, sha in enumerate(graph.images)}
    for pair in pairs:
        if pair.same:
            assert side_of[number[pair.sha256_a]] == side_of[number[pair.sha256_b]]


def many_people() -> PairGraph:
    people = [LabelledPair(f"{p:02d}a", f"{p:02d}b", same=True) for p in range(40)]
    chain = [LabelledPair("00b", f"00{letter}", same=True) for letter in "cdefghijklmnop"]
    strangers = [LabelledPair(f"{p:02d}a", f"x{p:02d}", same=False) for p in range(20)]
    return graph_of([*people, *chain, *strangers])


def test_every_side_gets_its_share_of_people_and_nobody_huge_is_held_out() -> None:
    graph = many_people()
    split = split_people(graph, seed=3, validation=Need(0.1, 1), held_out=Need(0.25, 1))
    counts = {
        name: len({graph.images[i][:2] for i in side if graph.images[i][0] != "x"})
        for name, side in vars(split).items()
    }
    assert counts["validation"] in {3, 4}
    assert counts["held_out"] in {9, 10}
    assert "00a" in {graph.images[i] for i in split.training}
    # The strangers of one image are divided in about the same shares.
    strangers = [sum(graph.images[i][0] == "x" for i in side) for side in vars(split).values()]
    assert strangers == [14, 2, 4]


def test_the_split_depends_on_the_seed_alone() -> None:
    graph = many_people()
    needs = {"validation": Need(0.2, 1), "held_out": Need(0.2, 1)}
    first, again, other = (split_people(graph, seed, **needs) for seed in (1, 1, 2))
    assert np.array_equal(first.held_out, again.held_out)
    assert np.array_equal(first.validation, again.validation)
    assert not np.array_equal(first.validation, other.validation)
