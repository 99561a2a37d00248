"""Reference faces from the feedback."""

from itertools import pairwise

import numpy as np
import pytest

from services.trainer.data.labels import LabelledPair, images_of
from services.trainer.data.pair_graph import build_graph
from services.trainer.data.set_aside import images_to_replay, set_aside
from services.trainer.data.splits import split_feedback


def people(count: int, images: int) -> list[LabelledPair]:
    """Pairs of neighbouring images of each person, and of each person with the next one."""
    names = [[f"{person:03d}-{image}" for image in range(images)] for person in range(count)]
    same = [LabelledPair(a, b, same=True) for own in names for a, b in pairwise(own)]
    different = [LabelledPair(one[0], other[0], same=False) for one, other in pairwise(names)]
    return [*same, *different]


def parent_of(images: tuple[str, ...]) -> np.ndarray:
    """Features of a parent that knows everybody: one direction per person."""
    person = np.array([int(image[:3]) for image in images])
    return np.eye(person.max() + 1, dtype=np.float32)[person]


@pytest.mark.parametrize(("count", "aside"), [(30, 0), (70, 10), (200, 21)])
def test_people_set_aside_are_neither_trained_on_nor_judged(count: int, aside: int) -> None:
    pairs = people(count, 3)
    split = split_feedback(sorted(images_of(pairs)), pairs, seed=0)
    kept = set_aside(split.graph, split.training, seed=0)
    assert kept.people == aside
    assert set(kept.training) <= set(split.training)
    if kept.pairs is None:
        assert np.array_equal(kept.training, split.training)
        return
    measured = set(kept.pairs.images.ravel())
    assert measured <= set(split.training) - set(kept.training)
    person = split.graph.component
    assert not set(person[list(measured)]) & set(person[kept.training])
    assert len(np.unique(kept.pairs.people[kept.pairs.genuine])) == aside


def test_no_image_that_the_parent_is_wrong_about_is_replayed() -> None:
    pairs = people(40, 3)
    graph = build_graph(sorted(images_of(pairs)), pairs)
    everyone = np.arange(len(graph.images))
    parent = parent_of(graph.images)
    assert np.array_equal(images_to_replay(graph, everyone, parent, 0.5, 0), everyone)
    # It takes the last picture of person 7 for another person.
    wrong = graph.images.index("007-2")
    parent[wrong] = parent[graph.images.index("020-0")]
    left_out = {wrong, graph.images.index("007-1")}
    assert set(images_to_replay(graph, everyone, parent, 0.5, 0)) == set(everyone) - left_out


def test_only_images_to_train_on_are_replayed() -> None:
    pairs = people(40, 3)
    graph = build_graph(sorted(images_of(pairs)), pairs)
    some = np.arange(10, 30)
    assert np.array_equal(images_to_replay(graph, some, parent_of(graph.images), 0.5, 0), some)
