"""Decoded images, and batches that hold each of them once."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.rendering.renderer import render_person
from services.trainer.data.batches import decode_images, pair_batches, people_batches
from services.trainer.data.labels import LabelledPair
from services.trainer.data.left_out import LeftOut, LeftOutImage, LeftOutReason
from services.trainer.data.pair_graph import PairGraph, build_graph
from services.trainer.data.splits import decode_feedback
from shared.errors import NotFound, PreconditionFailed
from shared.model.image.align import ARCFACE_TEMPLATE
from shared.model.image.decoding import png
from shared.model.image.face import Alignment, FaceImage, Landmarks
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits


class Pictures:
    """A feedback source of faces; the brightness of the upper left corner of each is its number."""

    snapshot_id = "snapshot"

    def __init__(self, count: int) -> None:
        self.asked: list[str] = []
        self._faces: dict[str, FaceImage] = {}
        for brightness in range(count):
            pixels = render_person(brightness, 0)
            pixels[:8, :8] = brightness
            self.add(pixels, "aligned", ())

    @property
    def names(self) -> list[str]:
        return list(self._faces)

    def add(self, pixels: np.ndarray, alignment: Alignment, landmarks: Landmarks) -> str:
        data = cv2.imencode(".png", pixels)[1].tobytes()
        sha256 = hashlib.sha256(data).hexdigest()
        self._faces[sha256] = FaceImage(data, alignment, landmarks)
        return sha256

    def damage(self, name: str) -> None:
        self._faces[name] = FaceImage(b"no picture", "aligned")

    def pairs(self) -> Iterator[LabelledPair]:
        yield from ()

    def image(self, sha256: str) -> FaceImage:
        self.asked.append(sha256)
        if sha256 not in self._faces:
            raise NotFound(sha256)
        return self._faces[sha256]


@pytest.fixture
def reader() -> FaceReader:
    return FaceReader(ImageLimits())


def test_every_image_is_decoded_once_in_order(tmp_path: Path, reader: FaceReader) -> None:
    pictures, ticks = Pictures(5), []
    names = pictures.names
    decoded = decode_images(names, pictures, reader, tmp_path / "crops", ticks.append)
    crops = decoded.crops
    assert decoded.images == pictures.asked == names
    assert decoded.left_out == ()
    assert crops.shape == (5, 112, 112, 3)
    assert [int(crop[0, 0, 0]) for crop in crops] == [0, 1, 2, 3, 4]
    assert ticks == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("raised", [MemoryError(), SystemError("x"), cv2.error("x")])
def test_whatever_an_image_raises_costs_only_itself(
    tmp_path: Path, reader: FaceReader, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    decode, pictures = png.decode_with_pillow, Pictures(3)
    first, second, third = pictures.names
    bad = pictures.image(second).data

    def fail_for_one(data: bytes, *how: object) -> object:
        if data == bad:
            raise raised
        return decode(data, *how)

    monkeypatch.setattr(png, "decode_with_pillow", fail_for_one)
    decoded = decode_images(pictures.names, pictures, reader, tmp_path / "crops", lambda _: None)
    assert decoded.images == [first, third]
    assert [(one.sha256, one.reason) for one in decoded.left_out] == [
        (second, LeftOutReason.UNREADABLE)
    ]


def test_an_image_that_cannot_be_read_costs_only_itself(tmp_path: Path, reader: FaceReader) -> None:
    pictures = Pictures(4)
    first, second, third, fourth = pictures.names
    pictures.damage(second)
    wanted = [first, second, "0" * 64, third, fourth]
    decoded = decode_images(wanted, pictures, reader, tmp_path / "crops", lambda _: None)
    assert decoded.images == [first, third, fourth]
    assert [int(crop[0, 0, 0]) for crop in decoded.crops] == [0, 2, 3]
    assert [(one.sha256, one.reason) for one in decoded.left_out] == [
        (second, LeftOutReason.UNREADABLE),
        ("0" * 64, LeftOutReason.ERASED),
    ]


def no_faces(count: int) -> list[np.ndarray]:
    """Pictures of noise, stripes, and of people upside down."""
    generator = np.random.default_rng(0)
    kinds = [
        lambda _: generator.integers(0, 256, (112, 112, 3)).astype(np.uint8),
        lambda n: np.tile(np.uint8(np.arange(112) // (n + 3) % 2 * 255), (112, 1))[
            ..., None
        ].repeat(3, axis=2),
        lambda n: np.ascontiguousarray(render_person(n, 1)[::-1]),
    ]
    return [kinds[number % 3](number) for number in range(count)]


@pytest.mark.parametrize("alignment", ["aligned", "landmarks"])
def test_a_crop_without_a_face_is_left_out_and_named(
    tmp_path: Path, reader: FaceReader, alignment: str
) -> None:
    pictures = Pictures(3)
    faces = pictures.names
    landmarks = tuple(map(tuple, ARCFACE_TEMPLATE.tolist())) if alignment == "landmarks" else ()
    added = [pictures.add(pixels, alignment, landmarks) for pixels in no_faces(6)]
    wanted = [*faces, *added]
    decoded = decode_images(wanted, pictures, reader, tmp_path / "crops", lambda _: None)
    assert decoded.images == faces
    assert [one.sha256 for one in decoded.left_out] == added
    assert {one.reason for one in decoded.left_out} == {LeftOutReason.NO_FACE}
    assert all("shows no face" in one.detail for one in decoded.left_out)


def test_what_is_left_out_is_counted_and_named_by_first_digits() -> None:
    images = [LeftOutImage(f"{n:x}" * 64, LeftOutReason.NO_FACE) for n in range(5)]
    images += [LeftOutImage("e" * 64, LeftOutReason.ERASED)]
    text = LeftOut(tuple(images), of_images=90, pairs=7, of_pairs=80).describe()
    assert text == (
        "6 of 90 labelled images are left out, and with them 7 of 80 pairs: 5 without a face "
        "(00000000…, 11111111…, 22222222…, …), 1 not stored any more"
    )
    assert LeftOut((), 90, 0, 80).describe() == ""


def test_a_refusal_says_what_was_left_out(tmp_path: Path, reader: FaceReader) -> None:
    class Landscapes(Pictures):
        def pairs(self) -> Iterator[LabelledPair]:
            for a, b in zip(self.names[::2], self.names[1::2], strict=True):
                yield LabelledPair(a, b, same=True)

    pictures = Landscapes(58)
    for pixels in no_faces(2):
        pictures.add(pixels, "aligned", ())
    with pytest.raises(PreconditionFailed, match=r"shows 29 people .* 2 of 60 labelled") as raised:
        decode_feedback(pictures, reader, tmp_path / "crops", lambda _: None)
    assert "with them 1 of 30 pairs: 2 without a face" in str(raised.value)


@st.composite
def feedback(draw: st.DrawFn) -> PairGraph:
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=30))
    names = [f"{p:02d}-{i}" for p, size in enumerate(sizes) for i in range(size)]
    pairs = [
        LabelledPair(f"{p:02d}-{i - 1}", f"{p:02d}-{i}", same=True)
        for p, size in enumerate(sizes)
        for i in range(1, size)
    ]
    pairs += [
        LabelledPair(f"{p - 1:02d}-0", f"{p:02d}-0", same=False) for p in range(1, len(sizes))
    ]
    return build_graph(names, pairs)


@settings(deadline=None)
@given(feedback(), st.integers(2, 40), st.integers(0, 3))
def test_an_epoch_shows_every_image_exactly_once(graph: PairGraph, size: int, seed: int) -> None:
    images = np.arange(len(graph.images))
    batches = list(people_batches(graph, images, size, np.random.default_rng(seed)))
    shown = np.concatenate([batch.images for batch in batches])
    assert sorted(shown) == list(images)
    for batch in batches:
        assert batch.genuine.shape == batch.impostor.shape == (len(batch.images),) * 2
        assert not np.diag(batch.genuine).any()
        assert not np.diag(batch.impostor).any()
        assert not (batch.genuine * batch.impostor).any()


@settings(deadline=None)
@given(feedback(), st.integers(0, 3))
def test_people_with_several_images_always_meet_themselves(graph: PairGraph, seed: int) -> None:
    images = np.arange(len(graph.images))
    for batch in people_batches(graph, images, 8, np.random.default_rng(seed)):
        for row, image in enumerate(batch.images):
            others = (graph.person == graph.person[image]).sum() - 1
            assert batch.genuine[row].any() == (others > 0)


def test_couples_within_a_contradiction_count_only_where_a_label_is_left() -> None:
    graph = build_graph(
        ["a", "b", "c", "x"],
        [
            LabelledPair("a", "b", True, 0.5),
            LabelledPair("b", "c", True, 1.0),
            LabelledPair("a", "c", False, 0.8),
        ],
    )
    batch = next(people_batches(graph, np.arange(4), 4, np.random.default_rng(0)))
    assert batch.genuine[1, 2] == pytest.approx(1, abs=1e-5)
    assert batch.genuine[0, 1] == batch.impostor[0, 1] == 0
    assert batch.impostor[0, 2] == pytest.approx(0.8)
    assert (batch.impostor[3, :3] == 1).all()


def test_pair_batches_hold_the_labelled_pairs_and_nothing_else() -> None:
    pairs = [
        LabelledPair("a", "b", True, 0.9),
        LabelledPair("b", "c", True, 1.0),
        LabelledPair("c", "d", False, 0.7),
        LabelledPair("d", "z", False, 1.0),
    ]
    graph = build_graph(["a", "b", "c", "d", "z"], pairs)
    inside = np.array([0, 1, 2, 3])
    batches = list(pair_batches(graph, inside, 2, np.random.default_rng(0)))
    assert len(batches) == 2
    weights = {}
    for batch in batches:
        for kind, matrix in (("same", batch.genuine), ("different", batch.impostor)):
            for a, b in zip(*np.nonzero(np.triu(matrix)), strict=True):
                names = graph.images[batch.images[a]] + graph.images[batch.images[b]]
                weights[kind, names] = float(matrix[a, b])
    assert weights == {
        ("same", "ab"): pytest.approx(0.9),
        ("same", "bc"): pytest.approx(1.0),
        ("different", "cd"): pytest.approx(0.7),
    }
