"""Limits of the influence of one person and of near-identical pictures."""

from collections import Counter
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cli.rendering.renderer import render_person
from services.trainer.data import influence
from services.trainer.data.batches import pair_batches, people_batches
from services.trainer.data.influence import find_bursts, pair_weights
from services.trainer.data.label_noise import assess_labels
from services.trainer.data.labels import LabelledPair, Vote, images_of
from services.trainer.data.pair_graph import PairGraph, build_graph, links_of
from services.trainer.data.people_split import require_people
from services.trainer.data.splits import feedback_pairs, split_feedback
from shared.errors import PreconditionFailed

HONEST = 150


def frame(number: int) -> NDArray[np.uint8]:
    """A frame of a video in which a person hardly moves."""
    generator = np.random.default_rng(number)
    turn = cv2.getRotationMatrix2D((56, 56), generator.normal(0, 0.7), 1.0)
    turn[:, 2] += generator.normal(0, 0.4, 2)
    moved = cv2.warpAffine(render_person(0, 0), turn, (112, 112), borderMode=cv2.BORDER_REFLECT)
    noisy = moved * generator.uniform(0.95, 1.05) + generator.normal(0, 3, moved.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


@pytest.mark.parametrize("rows", [256, 7])
def test_frames_and_encodings_of_one_picture_are_a_burst_and_other_pictures_are_not(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influence, "_ROWS", rows)
    picture = render_person(1, 0)
    half = cv2.resize(picture, (56, 56), interpolation=cv2.INTER_AREA)
    copies = [encoded(picture, 40), encoded(half, 60), (picture * 0.9).astype(np.uint8)]
    copies[1] = cv2.resize(copies[1], (112, 112))
    others = [render_person(1, image) for image in range(1, 6)]
    crops = np.stack([*(frame(n) for n in range(30)), picture, *copies, *others])
    links = np.array([*pairwise(range(30)), *pairwise(range(30, 39))])
    burst = find_bursts(crops, links)
    assert len(set(burst[:30])) == 1
    assert len(set(burst[30:34])) == 1
    assert len(set(burst)) == 2 + len(others)


def test_no_images_are_no_bursts() -> None:
    none = np.empty((0, 112, 112, 3), np.uint8)
    assert len(find_bursts(none, np.empty((0, 2), np.int64))) == 0


def test_two_people_are_never_one_burst() -> None:
    crops = np.stack([render_person(1, 0)] * 4)
    assert len(set(find_bursts(crops, np.array([[0, 1], [2, 3]])))) == 2


class Frames:
    """Labels of honest people, two pictures each, and of one person on many frames.

    Attributes:
        burst: int64 [N]; each frame is a burst of its own if `distinct`.
    """

    def __init__(self, frames: int, *, distinct: bool = False) -> None:
        own = [(f"h{n:03d}a", f"h{n:03d}b") for n in range(HONEST)]
        video = [f"v{n:03d}" for n in range(frames)]
        votes = (Vote("ada", True),), (Vote("ada", False),)
        self.honest = [LabelledPair(a, b, True, votes=votes[0]) for a, b in own]
        self.pairs = [
            *self.honest,
            *(LabelledPair(a[0], b[1], False, votes=votes[1]) for a, b in pairwise(own)),
            *(LabelledPair(a, b, True, votes=votes[0]) for a, b in pairwise(video)),
            *(
                LabelledPair(own[n % HONEST][0], v, False, votes=votes[1])
                for n, v in enumerate(video)
            ),
        ]
        self.images = sorted(images_of(self.pairs))
        is_frame = np.array([name[0] == "v" for name in self.images])
        self.burst = np.arange(len(self.images))
        if not distinct:
            self.burst[is_frame] = self.burst[is_frame][0]
        self._people = np.array([name[:4] if name[0] == "h" else "v" for name in self.images])
        self._noise = np.where(is_frame, 0.15, 1.3)[:, np.newaxis]

    def features(self) -> NDArray[np.float32]:
        """Features under a network that finds frames very alike and other pictures fairly so."""
        generator = np.random.default_rng(0)
        _, person = np.unique(self._people, return_inverse=True)
        direction = generator.normal(size=(person.max() + 1, 24))[person]
        noise = self._noise * generator.normal(size=direction.shape)
        return (direction + noise).astype(np.float32)

    def graph(self) -> PairGraph:
        return build_graph(self.images, self.pairs, self.burst)


@pytest.mark.parametrize("distinct", [False, True])
def test_many_frames_of_one_person_cost_no_one_elses_labels(distinct: bool) -> None:
    frames = Frames(401, distinct=distinct)
    features = frames.features()
    trained = []

    def train(_: PairGraph, images: NDArray[np.int64]) -> NDArray[np.float32]:
        trained.append(images)
        return features

    assessment = assess_labels(
        frames.images, frames.pairs, features, train, burst=frames.burst, threshold=0.3
    )
    used = {(pair.sha256_a, pair.sha256_b) for pair in assessment.pairs}
    kept = sum((pair.sha256_a, pair.sha256_b) in used for pair in frames.honest)
    assert kept >= 0.97 * HONEST
    assert assessment.report.wrong_share < 0.05


def test_pairs_between_the_same_bursts_count_once_and_a_person_ten_times() -> None:
    frames = Frames(401)
    pairs = frames.pairs
    links = links_of(frames.images, pairs)
    same = np.array([pair.same for pair in pairs])
    person = frames.graph().person
    weight = pair_weights(links, same, person, frames.burst)
    of_frames = np.array([pair.sha256_b[0] == "v" for pair in pairs])
    assert (weight[~of_frames] == 1).all()
    assert weight[of_frames & same].sum() == pytest.approx(1)
    assert weight[of_frames & ~same].sum() == pytest.approx(10)
    apart = pair_weights(links, same, person, np.arange(len(frames.images)))
    assert apart[of_frames & same].sum() == pytest.approx(10)


@pytest.mark.parametrize(("distinct", "most"), [(False, 3), (True, 24)])
def test_an_epoch_shows_few_images_of_one_person_and_others_the_next_time(
    distinct: bool, most: int
) -> None:
    frames = Frames(401, distinct=distinct)
    graph, generator = frames.graph(), np.random.default_rng(0)
    everything = np.arange(len(graph.images))
    shown = []
    for _ in range(2):
        batches = list(people_batches(graph, everything, 36, generator))
        images = [graph.images[i] for batch in batches for i in batch.images]
        assert len(images) == len(set(images)) == 2 * HONEST + most
        assert len(batches) == round(len(images) / 36)
        shown.append({name for name in images if name[0] == "v"})
    assert shown[0] != shown[1]


def test_pair_batches_hold_few_pairs_of_one_person() -> None:
    graph = Frames(401).graph()
    batches = list(pair_batches(graph, np.arange(len(graph.images)), 18, np.random.default_rng(0)))
    counted: Counter[bool] = Counter()
    for batch in batches:
        for a, b in np.argwhere(np.triu(batch.genuine + batch.impostor)):
            names = graph.images[batch.images[a]] + graph.images[batch.images[b]]
            counted["v" in names] += 1
    assert counted[False] == 2 * HONEST - 1
    assert counted[True] < 30


def test_near_identical_pictures_are_no_pair_to_measure_on() -> None:
    frames = Frames(401)
    pairs = feedback_pairs(frames.graph(), np.arange(len(frames.images)), seed=0)
    is_frame = np.array([name[0] == "v" for name in frames.images])
    with_frame = is_frame[pairs.images].any(axis=1)
    assert not (with_frame & pairs.genuine).any()
    assert pairs.genuine.sum() == HONEST
    assert len(np.unique(pairs.images[is_frame[pairs.images]])) <= 11
    # One of 151 people, and ten labels DIFFERENT.
    assert with_frame[~pairs.genuine].mean() < 0.02


def test_one_person_of_many_pictures_counts_as_one_where_it_is_measured() -> None:
    frames = Frames(401, distinct=True)
    pairs = feedback_pairs(frames.graph(), np.arange(len(frames.images)), seed=0)
    is_frame = np.array([name[0] == "v" for name in frames.images])
    with_frame = is_frame[pairs.images].any(axis=1)
    assert (with_frame & pairs.genuine).sum() == 10
    assert with_frame[~pairs.genuine].mean() < 0.1


def test_copies_of_a_picture_are_no_evidence_for_the_gate() -> None:
    names = [(f"{n:02d}a", f"{n:02d}b") for n in range(80)]
    pairs = [LabelledPair(a, b, same=True) for a, b in names]
    images = sorted(images_of(pairs))
    copies = np.arange(len(images)) // 2
    require_people(build_graph(images, pairs))
    with pytest.raises(PreconditionFailed, match="shows 0 people in a pair labelled SAME"):
        require_people(build_graph(images, pairs, copies))


def test_a_video_of_one_person_does_not_keep_others_from_being_held_out() -> None:
    frames = Frames(401)
    split = split_feedback(frames.images, frames.pairs, 0, frames.burst)
    assert split.held_out.genuine.sum() >= 30
    assert split.validation.genuine.sum() >= 6
