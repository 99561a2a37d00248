"""Each image is decoded and embedded once, in bounded memory, and errors name the image."""

import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.commands.evaluation.pair_crops import pair_crops
from cli.images import AlignmentChoice
from shared.datasets.pairs import PairSet, PairSetBuilder
from shared.errors import CorruptData, InvalidInput
from shared.evaluation.embed import embed_set, embed_usable
from shared.evaluation.measure import measure
from tests.shared.evaluation.sets import NumberSession, numbered_crop, random_set


def test_each_image_is_decoded_and_embedded_once_however_many_pairs_use_it() -> None:
    pair_set = random_set(images=70, pairs=3000)
    decoded: Counter[int] = Counter()
    done = []
    session = NumberSession()

    def crops(image: int) -> np.ndarray:
        decoded[image] += 1
        return numbered_crop(image)

    embedded = embed_set(session, pair_set, crops, batch_size=32, progress=done.append)
    assert decoded == dict.fromkeys(range(70), 1)
    assert session.runs == done == [32, 32, 6]
    assert embedded.embeddings.shape == (70, 8)
    assert embedded.mirrored is None


def test_rows_are_in_the_order_of_the_images_whichever_is_decoded_first() -> None:
    pair_set, session = random_set(images=40, pairs=100), NumberSession()

    def crops(image: int) -> np.ndarray:
        time.sleep(0.004 * (image % 8 == 0))
        return numbered_crop(image)

    embedded = embed_set(session, pair_set, crops, batch_size=4)
    expected = np.stack([session.feature(numbered_crop(image)) for image in range(40)])
    magnitudes = np.linalg.norm(expected, axis=1)
    assert embedded.magnitudes == pytest.approx(magnitudes, rel=1e-6)
    assert embedded.embeddings == pytest.approx(expected / magnitudes[:, None], abs=1e-6)


def test_the_mirror_images_features_are_added_before_normalising() -> None:
    pair_set, session = random_set(images=3, pairs=9), NumberSession()
    embedded = embed_set(session, pair_set, numbered_crop, mirror=True)
    for image in range(3):
        crop = numbered_crop(image)
        total = session.feature(crop) + session.feature(crop[:, ::-1])
        assert embedded.mirrored is not None
        assert embedded.mirrored[image] == pytest.approx(total / np.linalg.norm(total), abs=1e-6)
        assert embedded.magnitudes[image] == pytest.approx(np.linalg.norm(session.feature(crop)))


def _files(folder: Path) -> PairSet:
    rng = np.random.default_rng(0)
    files = [folder / f"{name}.png" for name in "abcd"]
    for file in files:
        cv2.imwrite(str(file), rng.integers(0, 256, (112, 112, 3), np.uint8))
    builder = PairSetBuilder("pairs")
    places = [builder.image(file) for file in files]
    builder.pair("0", places[0], places[1], genuine=True)
    builder.pair("1", places[2], places[3], genuine=False)
    return builder.build()


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    pair_set = _files(tmp_path)
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"c\.png\.data"):
        embed_set(NumberSession(), pair_set, pair_crops(pair_set, AlignmentChoice.AUTO))


def test_images_that_cannot_be_read_are_left_out_with_their_pairs(tmp_path: Path) -> None:
    pair_set = _files(tmp_path)
    (tmp_path / "c.png").write_bytes(b"no picture")
    crops = pair_crops(pair_set, AlignmentChoice.AUTO)
    session = NumberSession()
    usable = embed_usable(session, pair_set, crops, mirror=True)
    assert [error.field for error in usable.unusable] == [str(tmp_path / "c.png.data")]
    assert usable.pair_set.images == pair_set.images[:2]
    expected = embed_set(session, usable.pair_set, crops, mirror=True)
    assert usable.embedded.embeddings == pytest.approx(expected.embeddings)
    assert usable.embedded.mirrored == pytest.approx(expected.mirrored)
    assert measure("standin", usable.embedded, usable.pair_set, 0.3).evaluation.pairs == 1
    (tmp_path / "a.png").unlink()
    with pytest.raises(InvalidInput, match=r"2 of 4 images cannot; the first is .*a\.png"):
        embed_usable(session, pair_set, crops)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_model_that_gives_no_usable_output_is_refused_naming_the_image(
    tmp_path: Path, value: float
) -> None:
    class Broken(NumberSession):
        def run(self, crops: np.ndarray) -> np.ndarray:
            features = super().run(crops)
            if len(self.runs) == 2:
                features[0] = value
            return features

    pair_set = _files(tmp_path)
    crops = pair_crops(pair_set, AlignmentChoice.AUTO)
    with pytest.raises(CorruptData, match=r"c\.png"):
        embed_set(Broken(), pair_set, crops, batch_size=2)


def test_a_hundred_thousand_pairs_need_little_more_memory_than_the_embeddings() -> None:
    pair_set = random_set(images=5000, pairs=100_000)
    tracemalloc.start()
    embedded = embed_set(NumberSession(512), pair_set, numbered_crop)
    measured = measure("standin", embedded, pair_set, 0.3, bootstrap_rounds=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert measured.evaluation.pairs == 100_000
    # The embeddings take 10 MB; all crops at once would take 190, both sides of all pairs 410.
    assert peak < 64e6


def test_it_can_be_interrupted_and_stops_decoding() -> None:
    pair_set = random_set(images=2000, pairs=4000)
    decoded: Counter[int] = Counter()

    def crops(image: int) -> np.ndarray:
        decoded[image] += 1
        return numbered_crop(image)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        embed_set(NumberSession(), pair_set, crops, progress=interrupt)
    assert decoded.total() <= 32 * 6
    assert threading.active_count() == threads
