import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.datasets.pairs import PairSet
from shared.datasets.sampling import HardPairs, SampleSize, sample_pairs, sample_splits
from shared.errors import InvalidInput
from tests.shared.datasets.files import made_up, same


def check_promises(pair_set: PairSet, size: SampleSize) -> None:
    assert len(pair_set) == size.pairs
    assert int(pair_set.labels.sum()) == size.pairs - size.pairs // 2
    identities = pair_set.identities
    assert identities is not None
    pairs = [tuple(sorted(pair)) for pair in pair_set.pairs.tolist()]
    assert len(set(pairs)) == len(pairs), "a pair occurs twice"
    assert all(first != second for first, second in pairs), "an image is paired with itself"
    genuine = [identities[first] == identities[second] for first, second in pair_set.pairs.tolist()]
    assert genuine == pair_set.labels.tolist()
    assert len(set(pair_set.images)) == len(pair_set.images)
    for image, identity in zip(pair_set.images, identities, strict=True):
        assert isinstance(image, Path)
        assert image.parent.name == identity


@given(
    st.lists(st.integers(1, 7), min_size=4, max_size=12),
    st.integers(2, 30),
    st.integers(2, 5),
    st.integers(0, 2**32),
)
def test_promises_hold_for_any_people(
    counts: list[int], pairs: int, images: int, seed: int
) -> None:
    identities = {
        name: files[: counts[place]]
        for place, (name, files) in enumerate(made_up(len(counts), 7).items())
    }
    size = SampleSize(pairs, images=images)
    try:
        pair_set = sample_pairs(identities, size, seed)
    except InvalidInput as error:
        usable = [min(count, images) for count in counts if count > 1]
        genuine = sum(count * (count - 1) // 2 for count in usable)
        impostor = sum(usable) * (sum(usable) - 1) // 2 - genuine
        few = len(usable) < 2 or genuine < pairs - pairs // 2 or impostor < pairs // 2
        assert few, f"refused though it was possible: {error}"
        return
    check_promises(pair_set, size)
    shuffled = dict(reversed(identities.items()))
    assert same(sample_pairs(shuffled, size, seed), pair_set)


def test_every_possible_pair_can_be_taken() -> None:
    size = SampleSize(200, identities=10, images=5)
    pair_set = sample_pairs(made_up(30, 8), size, seed=0)
    check_promises(pair_set, size)
    assert len(pair_set.images) == 50
    assert len(set(pair_set.identities or ())) == 10
    # 10 people with 5 images have exactly 100 genuine pairs.
    with pytest.raises(InvalidInput, match="101 genuine pairs; these people and images give 100"):
        sample_pairs(made_up(30, 8), SampleSize(202, identities=10, images=5), seed=0)


def test_people_with_enough_images_are_chosen_first() -> None:
    few, many = made_up(50, 2), made_up(60, 5)
    identities = {**many, **few}
    pair_set = sample_pairs(identities, SampleSize(200, identities=10, images=5), seed=3)
    assert len(pair_set.images) == 50


def test_images_that_no_pair_took_are_left_out() -> None:
    pair_set = sample_pairs(made_up(30, 8), SampleSize(20), seed=0)
    check_promises(pair_set, SampleSize(20))
    assert len(pair_set.images) <= 40


def test_another_seed_chooses_otherwise() -> None:
    size = SampleSize(50, identities=8, images=4)
    assert not same(sample_pairs(made_up(30, 6), size, 0), sample_pairs(made_up(30, 6), size, 1))


def test_genuine_pairs_are_dealt_out_evenly() -> None:
    identities = {**made_up(20, 3), "crowd": [Path(f"/none/crowd/{k}.jpg") for k in range(60)]}
    pair_set = sample_pairs(identities, SampleSize(80), seed=0)
    assert pair_set.identities is not None
    owners = Counter(
        pair_set.identities[first] for first, _ in pair_set.pairs[pair_set.labels].tolist()
    )
    assert max(owners.values()) <= 2
    assert len(owners) >= 19


def test_impostor_pairs_are_spread_over_everybody() -> None:
    pair_set = sample_pairs(made_up(50, 4), SampleSize(600), seed=0)
    ends = pair_set.pairs[~pair_set.labels].ravel() // 4
    counts = np.bincount(ends, minlength=50)
    # 600 ends over 50 people: 12 each, standard deviation 3.4.
    assert counts.min() >= 2
    assert counts.max() <= 25


def test_labels_are_not_in_order() -> None:
    labels = sample_pairs(made_up(50, 4), SampleSize(200), seed=0).labels
    assert 20 < labels[:100].sum() < 80


class TestSplits:
    def test_share_nobody(self) -> None:
        sizes = {
            "train": SampleSize(100, identities=20, images=4),
            "validation": SampleSize(30, identities=8),
            "test": SampleSize(41, identities=10, images=3),
        }
        splits = sample_splits(made_up(40, 5), sizes, seed=5)
        for split, size in sizes.items():
            check_promises(splits[split], size)
        members = [set(split.identities or ()) for split in splits.values()]
        assert sum(len(people) for people in members) == len(set.union(*members)) == 38
        again = sample_splits(made_up(40, 5), sizes, seed=5)
        assert all(same(splits[split], again[split]) for split in sizes)

    def test_need_a_number_of_people_each(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            sample_splits(made_up(9, 3), {"test": SampleSize(4)}, seed=0)
        assert caught.value.field == "test.identities"

    def test_of_too_few_people_are_refused(self) -> None:
        sizes = {name: SampleSize(4, identities=5) for name in ("a", "b")}
        with pytest.raises(InvalidInput, match="asks for 10; 9 people"):
            sample_splits(made_up(9, 3), sizes, seed=0)


class TestHardPairs:
    @staticmethod
    def similarity(images: Sequence[Path], pairs: NDArray[np.int32]) -> NDArray[np.float32]:
        """A fixed artificial similarity of any two images."""
        numbers = np.array([int(file.parent.name[1:]) * 100 + int(file.stem) for file in images])
        first, second = numbers[pairs].T
        mixed = (first * second * 7919 + first + second) % 10_007
        return (mixed / 10_007).astype(np.float32)

    def measured(self, pair_set: PairSet) -> tuple[float, float]:
        files = [image for image in pair_set.images if isinstance(image, Path)]
        similarity = self.similarity(files, pair_set.pairs)
        return (
            float(similarity[pair_set.labels].mean()),
            float(similarity[~pair_set.labels].mean()),
        )

    def test_are_unlike_when_genuine_and_alike_when_not(self) -> None:
        identities, size = made_up(30, 6), SampleSize(100)
        plain = self.measured(sample_pairs(identities, size, 0))
        half = sample_pairs(identities, size, 0, HardPairs(self.similarity))
        full = sample_pairs(identities, size, 0, HardPairs(self.similarity, share=1.0))
        check_promises(half, size)
        check_promises(full, size)
        assert self.measured(full)[0] < self.measured(half)[0] < plain[0]
        assert self.measured(full)[1] > self.measured(half)[1] > plain[1]
        assert self.measured(full)[0] < 0.1
        assert self.measured(full)[1] > 0.9

    def test_share_lies_between_none_and_all(self) -> None:
        with pytest.raises(InvalidInput):
            HardPairs(self.similarity, share=1.2)


@pytest.mark.parametrize(
    "size", [{"pairs": 1}, {"pairs": 4, "identities": 1}, {"pairs": 4, "images": 1}]
)
def test_sizes_that_make_no_sense_are_refused(size: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        SampleSize(**size)


def test_a_hundred_thousand_pairs_stay_small() -> None:
    tracemalloc.start()
    pair_set = sample_pairs(made_up(200, 25), SampleSize(100_000), seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pair_set) == 100_000
    assert len(pair_set.images) == 5_000
    assert peak < 64 * 2**20
