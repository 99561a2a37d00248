"""Split of the people of the feedback, and what each side must have.

What the gate needs is known before anything is trained, so the sides are filled by it: a training
whose candidate could not be judged is refused at its start.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import IndexArray
from services.trainer.data.influence import PAIRS_PER_PERSON, one_of_each
from services.trainer.data.labels import MIN_GENUINE_PAIRS, MIN_PEOPLE, VALIDATION_SHARE
from services.trainer.data.pair_graph import PairGraph, group_by
from shared.errors import PreconditionFailed

_MIN_TRAINING = 14
# People on more than this share of the pictures are trained on.
_LARGEST_MEASURED = 0.1


@dataclass(frozen=True)
class Need:
    """What one side of a split must have.

    Attributes:
        share: Share of the people with a genuine pair, 0..1.
        people: Fewest people with a genuine pair.
        pairs: Fewest genuine pairs of them; a person counts with at most `PAIRS_PER_PERSON`.
    """

    share: float
    people: int
    pairs: int = 0

    @property
    def least(self) -> "Need":
        """The same need without the share."""
        return replace(self, share=0)

    def taken(self, pairs: IndexArray, people: int) -> int:
        """Return how many components the side takes.

        Args:
            pairs: int64 [K], genuine pairs of the components to take from, in their order.
            people: Number of people with a genuine pair that the share refers to.

        Returns:
            More than K if all of them are not enough.
        """
        least = max(self.people, int(self.share * people))
        enough = (np.cumsum(pairs > 0) >= least) & (np.cumsum(pairs) >= self.pairs)
        return int(np.argmax(enough)) + 1 if enough.any() else len(pairs) + 1


# Chooses the epoch and the threshold.
VALIDATION = Need(VALIDATION_SHARE, 6)
# What the gate decides on: fewer people could not show a gain that users would notice.
HELD_OUT = Need(0.2, MIN_PEOPLE, MIN_GENUINE_PAIRS)


@dataclass(frozen=True)
class PeopleSplit:
    """Sorted positions of the images of each side; a component is on one of them."""

    training: IndexArray
    validation: IndexArray
    held_out: IndexArray


@dataclass(frozen=True)
class _People:
    """The components of a graph.

    Attributes:
        several: Components of several images.
        pairs: int64 [K], genuine pairs of each of these that can be measured on, after the cap.
        sizes: int64 [K], distinct pictures of each of these: a burst is one.
        single: Components of one image.
        pictures: Number of all distinct pictures.
    """

    several: list[IndexArray]
    pairs: IndexArray
    sizes: IndexArray
    single: list[IndexArray]
    pictures: int

    @classmethod
    def of(cls, graph: PairGraph) -> "_People":
        components = group_by(np.arange(len(graph.images)), graph.component)
        several = [each for each in components if len(each) > 1]
        return cls(
            several,
            np.array([_count_pairs(graph, each) for each in several], np.int64),
            np.array([len(np.unique(graph.burst[each])) for each in several], np.int64),
            [each for each in components if len(each) == 1],
            len(np.unique(graph.burst)),
        )

    @property
    def with_pairs(self) -> int:
        """Number of people with a genuine pair."""
        return int((self.pairs > 0).sum())

    def large(self) -> NDArray[np.bool_]:
        """Mark the components of several images that can only be trained on, bool [K]."""
        return self.sizes > _LARGEST_MEASURED * self.pictures

    def with_more(self, people: int) -> "_People":
        """Return the same people, and more with one genuine pair of two images each."""
        more = np.ones(people, np.int64)
        return replace(
            self,
            pairs=np.concatenate([self.pairs, more]),
            sizes=np.concatenate([self.sizes, 2 * more]),
            pictures=self.pictures + 2 * people,
        )


def genuine_pairs(graph: PairGraph, images: IndexArray) -> IndexArray:
    """Return the genuine pairs that labels state or imply among some images, int64 [P, 2].

    Of the pairs between two bursts of near-identical pictures there is one, and none within one:
    two encodings of a picture show nothing about a network.
    """
    weight = graph.genuine[images][:, images].tocoo()
    upper = (weight.row < weight.col) & (weight.data > 0)
    pairs = np.stack([images[weight.row[upper]], images[weight.col[upper]]], axis=1)
    return one_of_each(pairs, graph.burst)


def split_people(
    graph: PairGraph, seed: int, *, validation: Need = VALIDATION, held_out: Need = HELD_OUT
) -> PeopleSplit:
    """Split the images so that every component is on one side.

    The people to be measured on are drawn at random, and as many as are needed. If that would
    leave too few people to train on, those with the most genuine pairs are held out. Images of
    people without a second one are split in the same shares.

    Args:
        graph: The graph to split.
        seed: Seed of the random assignment.
        validation: What the side for validation must have.
        held_out: What the side for the gate must have.

    Raises:
        PreconditionFailed: If the pairs show too few people, or too few genuine pairs; the message
            says how many labels are missing.
    """
    require_people(graph, validation=validation, held_out=held_out)
    people = _People.of(graph)
    large = people.large()
    generator = np.random.default_rng(seed)
    order = generator.permutation(np.flatnonzero(~large))
    ends = _ends(people.pairs, order, large, validation, held_out)
    if ends is None:
        order = order[np.argsort(-people.pairs[order], kind="stable")]
        ends = _ends(people.pairs, order, large, validation.least, held_out.least)
    assert ends is not None  # noqa: S101 - `require_people` made sure of it
    measurable = [people.several[index] for index in order]
    shares = np.array(ends) / max(len(order), 1)
    single = [people.single[index] for index in generator.permutation(len(people.single))]
    first, second = (shares * len(single)).astype(int)
    training_only = [people.several[index] for index in np.flatnonzero(large)]
    return PeopleSplit(
        training=_joined([*training_only, *measurable[ends[1] :], *single[second:]]),
        validation=_joined([*measurable[ends[0] : ends[1]], *single[first:second]]),
        held_out=_joined([*measurable[: ends[0]], *single[:first]]),
    )


def require_people(
    *graphs: PairGraph, validation: Need = VALIDATION, held_out: Need = HELD_OUT
) -> None:
    """Check that a candidate can be judged with the people of one of some graphs.

    Args:
        graphs: For instance with all labels, and without those that are probably wrong.
        validation: See `split_people`.
        held_out: See `split_people`.

    Raises:
        PreconditionFailed: If not; the message is about the last graph.
    """
    for graph in graphs:
        people = _People.of(graph)
        missing = _missing(people, validation.least, held_out.least)
        if not missing:
            return
    raise PreconditionFailed(_shortage(people, missing, validation, held_out))


def _ends(
    pairs: IndexArray,
    order: IndexArray,
    large: NDArray[np.bool_],
    validation: Need,
    held_out: Need,
) -> tuple[int, int] | None:
    """Return where in an order the held-out and the validation people end.

    Args:
        pairs: int64 [K], genuine pairs of each component.
        order: int64 [M], the components that can be measured on.
        large: bool [K], the components that can only be trained on.
        validation: See `split_people`.
        held_out: See `split_people`.

    Returns:
        None if too few people are left to train on.
    """
    drawn = pairs[order]
    people = int((drawn > 0).sum())
    first = held_out.taken(drawn, people)
    second = first + validation.taken(drawn[first:], people)
    trained = int((drawn[second:] > 0).sum() + (pairs[large] > 0).sum())
    return (first, second) if second <= len(drawn) and trained >= _MIN_TRAINING else None


def _missing(people: _People, validation: Need, held_out: Need) -> int:
    """Return how many more people with one genuine pair each would be enough."""
    for missing in count():
        more = people.with_more(missing)
        large = more.large()
        order = np.flatnonzero(~large)
        order = order[np.argsort(-more.pairs[order], kind="stable")]
        if _ends(more.pairs, order, large, validation, held_out) is not None:
            return missing
    raise AssertionError


def _shortage(people: _People, missing: int, validation: Need, held_out: Need) -> str:
    others = _MIN_TRAINING + validation.people
    least = others + held_out.people
    found = people.with_pairs
    needs = (
        f"{_MIN_TRAINING} for training, {validation.people} for validation and "
        f"{held_out.people} for the gate"
    )
    if found < least:
        reason = (
            f"the feedback shows {found} people in a pair labelled SAME, and at least {least} are "
            f"needed: {needs}"
        )
    else:
        measured = max(found - others, 0)
        best = int(-np.sort(-people.pairs[~people.large()])[:measured].sum())
        reason = (
            f"the feedback shows {found} people in a pair labelled SAME, of whom {others} are for "
            f"training and validation; the {measured} others have {best} genuine pairs (at most "
            f"{PAIRS_PER_PERSON} of one person count), and the gate needs {held_out.pairs}"
        )
    if large := int(people.large().sum()):
        reason += (
            f". {large} of the people are on more than {_LARGEST_MEASURED:.0%} of the pictures "
            "each and can only be trained on"
        )
    return (
        f"{reason}. Label at least {missing} more pairs SAME, each of another person; "
        "pairs labelled DIFFERENT are not missing, because any two people are an impostor pair"
    )


def _count_pairs(graph: PairGraph, images: IndexArray) -> int:
    return min(len(genuine_pairs(graph, images)), PAIRS_PER_PERSON)


def _joined(images: Sequence[IndexArray]) -> IndexArray:
    return np.sort(np.concatenate([np.empty(0, np.int64), *images]))
