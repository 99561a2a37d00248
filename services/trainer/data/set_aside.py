"""Reference faces from the feedback, for a training that has no others.

They are trusted no further than the parent knows them: people are set aside, and images replayed,
only where the parent recognises the people of the feedback, and no image that it is wrong about is
replayed. Replayed images are held to the parent's embeddings, which takes no identities.
"""

from dataclasses import dataclass

import numpy as np

from services.trainer.data.arrays import FeatureArray, IndexArray
from services.trainer.data.labels import MIN_PEOPLE
from services.trainer.data.pair_graph import PairGraph, group_by
from services.trainer.data.people_split import genuine_pairs
from services.trainer.data.splits import EvaluationPairs, feedback_pairs
from shared.evaluation.scores import pair_similarity

# Share of the people trained on with a genuine pair.
_SHARE = 0.15
# As many people must be left to train on for each one set aside.
_LEFT = 3
# Most images to replay: a training draws 16 a step.
_MOST_REPLAYED = 4096


@dataclass(frozen=True)
class SetAside:
    """The images to train on, and what is kept of the parent.

    Attributes:
        training: int64 [M], the images that are left to train on.
        pairs: Pairs of the people set aside, to measure on; None if there are too few people.
        people: Number of these people.
    """

    training: IndexArray
    pairs: EvaluationPairs | None
    people: int


def set_aside(graph: PairGraph, training: IndexArray, seed: int) -> SetAside:
    """Set people aside at random from those to train on.

    A choice of people that the parent recognises best would show a loss where there is none.

    Args:
        graph: The labelled pairs.
        training: int64 [M], images of the people to train on.
        seed: Seed of the choice.
    """
    several = [
        images
        for images in group_by(training, graph.component)
        if len(genuine_pairs(graph, images))
    ]
    count = max(MIN_PEOPLE, int(_SHARE * len(several)))
    if len(several) < (1 + _LEFT) * count:
        return SetAside(training, None, 0)
    drawn = np.random.default_rng(seed).permutation(len(several))[:count]
    chosen = np.sort(np.concatenate([several[index] for index in drawn]))
    left = np.setdiff1d(training, chosen)
    return SetAside(left, feedback_pairs(graph, chosen, seed), count)


def images_to_replay(
    graph: PairGraph, training: IndexArray, parent: FeatureArray, threshold: float, seed: int
) -> IndexArray:
    """Choose images whose labels all agree with the parent.

    Args:
        graph: The labelled pairs.
        training: int64 [M], images to choose from.
        parent: float32 [N, D], the parent's features, not normalised.
        threshold: Similarity from which the parent decides SAME.
        seed: Seed of the choice where there are very many.

    Returns:
        int64 [R], sorted.
    """
    unit = parent / np.linalg.norm(parent, axis=1, keepdims=True)
    wrong = (pair_similarity(unit, graph.links) >= threshold) != graph.same
    sure = np.setdiff1d(training, graph.links[wrong])
    return np.sort(np.random.default_rng(seed).permutation(sure)[:_MOST_REPLAYED])
