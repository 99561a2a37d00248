from pathlib import Path

import numpy as np
import pytest

from shared.datasets.pairs import Cropping, PairSet, PairSetBuilder
from shared.errors import InvalidInput


def test_parts_that_do_not_fit_are_refused() -> None:
    images = (b"a", b"b")
    pair, yes = np.array([[0, 1]], np.int32), np.array([True])
    assert len(PairSet(images, pair, yes)) == 1
    for field, bad in {
        "pairs": lambda: PairSet(images, pair[:0], yes[:0]),
        "pairs ": lambda: PairSet(images, pair.T, yes),
        "pairs  ": lambda: PairSet(images, pair + 1, yes),
        "images": lambda: PairSet((*images, b"c"), pair, yes),
        "folds": lambda: PairSet(images, pair, yes, folds=np.array([0, 1], np.int32)),
        "identities": lambda: PairSet(images, pair, yes, identities=("x",)),
    }.items():
        with pytest.raises(InvalidInput) as caught:
            bad()
        assert caught.value.field == field.strip()


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    builder = PairSetBuilder("pairs")
    builder.pair("0", builder.image(tmp_path / "gone.jpg"), builder.image(b"b"), genuine=True)
    pair_set = builder.build()
    assert pair_set.data(1) == b"b"
    with pytest.raises(InvalidInput, match=r"gone\.jpg: cannot be read"):
        pair_set.data(0)


def test_identities_are_known_only_when_all_are() -> None:
    builder = PairSetBuilder("pairs")
    builder.pair("0", builder.image(b"a", "ada"), builder.image(b"b"), genuine=False)
    assert builder.build().identities is None
    assert builder.build().names == (("ada", ""),)


def test_images_are_left_out_with_their_pairs() -> None:
    builder = PairSetBuilder("pairs")
    places = [
        builder.image(name, name.decode(), Cropping("detect") if name == b"d" else None)
        for name in (b"a", b"b", b"c", b"d")
    ]
    for fold, (first, second) in enumerate([(0, 1), (0, 2), (2, 3)]):
        builder.pair(str(fold), places[first], places[second], fold == 1, fold)
    remaining, images = builder.build().without({1})
    assert images == [0, 2, 3]
    assert remaining.images == (b"a", b"c", b"d")
    assert remaining.pairs.tolist() == [[0, 1], [1, 2]]
    assert remaining.labels.tolist() == [True, False]
    assert remaining.folds is not None
    assert remaining.folds.tolist() == [1, 2]
    assert remaining.identities == ("a", "c", "d")
    assert remaining.names == (("a", "c"), ("c", "d"))
    assert remaining.croppings == {2: Cropping("detect")}
    with pytest.raises(InvalidInput, match="both images can be used"):
        remaining.without({1})


def test_each_pair_keeps_the_names_that_it_was_given() -> None:
    builder = PairSetBuilder("pairs")
    builder.pair("0", builder.image(b"a", "Zoe\u0308 "), builder.image(b"b", "bob"), genuine=False)
    builder.pair("1", builder.image(b"a", "ada"), builder.image(b"c"), genuine=False)
    pair_set = builder.build()
    assert pair_set.names == (("Zo\u00eb", "bob"), ("ada", ""))
    assert pair_set.identities is None
