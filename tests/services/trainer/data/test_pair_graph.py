"""Identities by the labels, contradictions, and splits by identity."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.data.labels import LabelledPair
from services.trainer.data.pair_graph import PairGraph, build_graph
from services.trainer.data.splits import feedback_pairs, reference_pairs
from tests.benchmarks.learning.faces import draw_pairs


def graph_of(*pairs: LabelledPair) -> PairGraph:
    return build_graph(sorted({s for p in pairs for s in (p.sha256_a, p.sha256_b)}), pairs)


def same(a: str, b: str, confidence: float = 1.0) -> LabelledPair:
    return LabelledPair(a, b, same=True, confidence=confidence)


def different(a: str, b: str, confidence: float = 1.0) -> LabelledPair:
    return LabelledPair(a, b, same=False, confidence=confidence)


def weight(graph: PairGraph, a: str, b: str) -> float:
    return float(graph.genuine[graph.images.index(a), graph.images.index(b)])


def test_same_labels_make_people_and_different_labels_do_not() -> None:
    graph = graph_of(same("a", "b"), same("b", "c"), same("d", "e"), different("a", "d"))
    assert len(set(graph.person[:3])) == 1
    assert len(set(graph.person[3:])) == 1
    assert graph.person[0] != graph.person[3]
    assert graph.excluded == ()


def test_closure_trusts_a_chain_as_much_as_its_links_together() -> None:
    graph = graph_of(same("a", "b", 0.9), same("b", "c", 0.8), same("a", "d", 0.5))
    assert weight(graph, "a", "c") == pytest.approx(0.72, rel=1e-3)
    assert weight(graph, "c", "a") == weight(graph, "a", "c")
    assert weight(graph, "d", "c") == pytest.approx(0.36, rel=1e-3)
    assert weight(graph, "a", "a") == 0


def test_closure_takes_the_most_trusted_path() -> None:
    graph = graph_of(same("a", "b", 0.9), same("b", "c", 0.9), same("a", "c", 0.2))
    assert weight(graph, "a", "c") == pytest.approx(0.81, rel=1e-3)


def test_the_least_trusted_label_of_a_contradiction_is_set_aside() -> None:
    doubtful = same("b", "c", 0.6)
    graph = graph_of(same("a", "b", 0.9), doubtful, different("a", "c", 0.8))
    assert graph.excluded == (doubtful,)
    assert weight(graph, "a", "b") > 0
    assert weight(graph, "b", "c") == 0


def test_all_labels_of_a_contradiction_are_set_aside_when_none_is_weaker() -> None:
    triangle = (same("a", "b"), same("b", "c"), different("a", "c"))
    graph = graph_of(*triangle, same("d", "e"))
    assert set(graph.excluded) == set(triangle)
    assert len(graph.links) == 1


def test_a_contradiction_around_a_long_way_is_found() -> None:
    chain = [same(a, b, 0.9) for a, b in ("ab", "bc", "cd", "de")]
    graph = graph_of(*chain, different("a", "e", 0.3))
    assert graph.excluded == (different("a", "e", 0.3),)


def test_what_was_set_aside_still_keeps_people_on_one_side() -> None:
    graph = graph_of(same("a", "b"), same("b", "c"), different("a", "c"))
    assert len(set(graph.component)) == 1
    assert len(set(graph.person)) == 3


def test_pairs_of_images_that_cannot_be_used_are_left_out() -> None:
    graph = build_graph(["a", "b", "c"], [same("a", "b"), same("b", "lost"), different("a", "c")])
    assert len(graph.links) == 2
    assert graph.images == ("a", "b", "c")


@st.composite
def labelled(draw: st.DrawFn) -> list[LabelledPair]:
    names = [f"{number:02d}" for number in range(draw(st.integers(2, 14)))]
    couples = draw(st.lists(st.sampled_from(list(combinations(names, 2))), unique=True))
    return [
        LabelledPair(a, b, draw(st.booleans()), draw(st.sampled_from([0.5, 0.7, 1.0])))
        for a, b in couples
    ]


@settings(deadline=None)
@given(labelled())
def test_no_contradiction_is_left_and_nothing_else_is_lost(pairs: list[LabelledPair]) -> None:
    graph = graph_of(*pairs)
    assert len(graph.links) + len(graph.excluded) == len(pairs)
    for (a, b), is_same in zip(graph.links, graph.same, strict=True):
        assert (graph.person[a] == graph.person[b]) == is_same
    if all(pair.same for pair in pairs) or not any(pair.same for pair in pairs):
        assert graph.excluded == ()


def many_people() -> PairGraph:
    people = [same(f"{p:02d}a", f"{p:02d}b") for p in range(40)]
    chain = [same("00b", f"00{letter}") for letter in "cdefghijklmnop"]
    strangers = [different(f"{p:02d}a", f"x{p:02d}") for p in range(20)]
    return graph_of(*people, *chain, *strangers)


def test_feedback_pairs_are_known_genuine_ones_and_impostors_between_families() -> None:
    graph = many_people()
    images = np.arange(len(graph.images))
    pairs = feedback_pairs(graph, images, seed=0)
    for (a, b), genuine in zip(pairs.images, pairs.genuine, strict=True):
        assert (graph.component[a] == graph.component[b]) == genuine
    # The chain of 16 images implies 120 pairs, of which 10 count.
    assert pairs.genuine.sum() == 39 + 10
    couples = {frozenset(couple) for couple in pairs.images[~pairs.genuine].tolist()}
    for link in graph.links[~graph.same].tolist():
        assert frozenset(link) in couples


def test_an_image_that_no_label_same_names_is_in_no_pair_that_no_label_states() -> None:
    # Such images often show a person who is there under other images: 250 people, of four images.
    persons = np.repeat(np.arange(250), 4)
    drawn = draw_pairs(persons, 1000, seed=0)
    labels = [
        LabelledPair(f"{a:04d}", f"{b:04d}", bool(is_same))
        for (a, b), is_same in zip(drawn.rows, drawn.same, strict=True)
    ]
    graph = graph_of(*labels)
    people = persons[[int(name) for name in graph.images]]
    pairs = feedback_pairs(graph, np.arange(len(graph.images)), seed=0)
    impostors = pairs.images[~pairs.genuine]
    one_person = (people[impostors[:, 0]] == people[impostors[:, 1]]).mean()
    every = np.stack(np.triu_indices(len(graph.images), 1), axis=1)
    apart = every[graph.component[every[:, 0]] != graph.component[every[:, 1]]]
    of_all = (people[apart[:, 0]] == people[apart[:, 1]]).mean()
    assert of_all > 1e-3
    assert one_person < of_all / 3
    stated = {frozenset(link) for link in graph.links.tolist()}
    size = np.bincount(graph.component)
    for pair in impostors[(size[graph.component[impostors]] == 1).any(axis=1)].tolist():
        assert frozenset(pair) in stated


def test_what_was_set_aside_is_no_pair_to_measure_on() -> None:
    graph = graph_of(same("a", "b"), same("b", "c"), different("a", "c"), same("d", "e"))
    pairs = feedback_pairs(graph, np.arange(5), seed=0)
    assert [tuple(couple) for couple in pairs.images[pairs.genuine]] == [(3, 4)]


def test_reference_pairs_take_only_the_faces_they_are_given() -> None:
    persons = np.repeat(np.arange(10), 3)
    images = np.arange(15, 30)
    pairs = reference_pairs(persons, images, seed=0)
    assert set(pairs.images.ravel()) <= set(images)
    assert pairs.genuine.sum() == 5 * 3
    assert (pairs.people[pairs.genuine][:, 0] == pairs.people[pairs.genuine][:, 1]).all()
    assert (pairs.people[~pairs.genuine][:, 0] != pairs.people[~pairs.genuine][:, 1]).all()
