"""Tests of the import of images into the pool."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cv2
import numpy as np
import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from cli.rendering.renderer import render_person
from services.feedback.pool.importer import PoolImage, image_bytes
from services.feedback.server import open_label_service, open_pairs_backend, prepare_stores
from services.feedback.settings import FeedbackSettings
from shared.errors import Unavailable
from shared.model.image.align import ARCFACE_TEMPLATE
from shared.model.image.face import FaceImage
from shared.rpc.budget import ByteBudget
from shared.rpc.streams import BudgetedRequests
from shared.storage.objects import ObjectStore, image_key
from tests.services.feedback.support.helpers import (
    Stored,
    marked,
    picture,
    request,
    sha256,
    stub_on,
    vaults,
)
from tests.support.decoding import hide_detector
from tests.support.photographs import GROUP, encode_jpeg, photograph
from tests.support.texts import LOOKALIKES, SPELLINGS

Stub = feedback_pb2_grpc.FeedbackServiceStub


def sending(*images: tuple[bytes, str]) -> AsyncIterator[pb.ImportImagesRequest]:
    async def requests() -> AsyncIterator[pb.ImportImagesRequest]:
        for data, identity in images:
            yield pb.ImportImagesRequest(image=marked(data), identity=identity)

    return requests()


def subjects(database_url: str) -> dict[str, str]:
    """The names of each image, in their order, with commas between them."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT sha256, string_agg(subject, ',' ORDER BY subject) FROM feedback.image_subjects"
            " GROUP BY sha256"
        )
        return {image.hex(): subject for image, subject in rows}


async def test_a_pool_sent_twice_is_stored_once(
    stub: Stub, stored: Callable[[], Stored], object_store: ObjectStore, database_url: str
) -> None:
    pool = [(picture(number), f"person-{number // 2}") for number in range(150)]
    first = await stub.ImportImages(sending(*pool))
    assert (first.created, first.known, first.rejected) == (150, 0, 0)
    again = await stub.ImportImages(sending(*pool))
    assert (again.created, again.known, again.rejected) == (0, 150, 0)
    assert stored() == Stored(150, 0, 0, 0, 0, objects=150)
    assert (await stub.GetStats(pb.GetStatsRequest())).images == 150
    assert object_store.get(image_key(sha256(3))) == picture(3)
    assert subjects(database_url) == {sha256(n): f"person-{n // 2}" for n in range(150)}


async def test_a_bad_image_is_named_and_the_others_are_stored(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    answer = await stub.ImportImages(
        sending(
            (picture(1), ""),
            (b"no picture", ""),
            (picture(1), ""),
            (picture(2, size=64), ""),
            (picture(3), "x" * 129),
            (picture(4), ""),
        )
    )
    assert (answer.created, answer.known, answer.rejected) == (2, 1, 3)
    assert [one.place for one in answer.rejections] == [1, 3, 4]
    assert "image.data" in answer.rejections[0].why
    assert "identity" in answer.rejections[2].why
    assert stored() == Stored(2, 0, 0, 0, 0, objects=2)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


async def test_an_image_that_shows_no_face_is_rejected_and_faces_are_stored(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    face, upside_down = render_person(1, 0), np.ascontiguousarray(render_person(2, 0)[::-1])
    landmarks = [image_pb2.Point(x=x, y=y) for x, y in ARCFACE_TEMPLATE.tolist()]
    detect = image_pb2.ALIGNMENT_DETECT
    images = [
        image_pb2.Image(data=png(face)),
        image_pb2.Image(data=picture(1)),
        image_pb2.Image(data=png(upside_down)),
        image_pb2.Image(data=picture(2), landmarks=landmarks),
        image_pb2.Image(data=encode_jpeg(photograph()), alignment=detect),
        image_pb2.Image(data=encode_jpeg(photograph(GROUP[1])), alignment=detect),
        marked(picture(3)),
    ]

    async def requests() -> AsyncIterator[pb.ImportImagesRequest]:
        for image in images:
            yield pb.ImportImagesRequest(image=image)

    answer = await stub.ImportImages(requests())
    assert [one.place for one in answer.rejections] == [1, 2, 3, 4]
    assert all("image.data: shows no face" in one.why for one in answer.rejections)
    assert (answer.created, answer.rejected, stored().images) == (3, 4, 3)


async def test_near_identical_pictures_are_told_and_others_are_not(
    stub: Stub, database_url: str
) -> None:
    faces = [render_person(person, image) for person in range(4) for image in range(3)]
    half = cv2.resize(faces[0], (56, 56), interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 40]
    copies = [
        cv2.imencode(".jpg", faces[0], quality)[1].tobytes(),
        png(cv2.resize(half, (112, 112))),
        png((faces[5] * 0.9).astype(np.uint8)),
    ]

    async def send(*pictures: bytes) -> pb.ImportImagesResponse:
        async def requests() -> AsyncIterator[pb.ImportImagesRequest]:
            for data in pictures:
                yield pb.ImportImagesRequest(image=image_pb2.Image(data=data))

        return await stub.ImportImages(requests())

    first = await send(*map(png, faces), copies[0])
    assert (first.created, first.rejected, first.near_identical) == (13, 0, 1)
    original = hashlib.sha256(png(faces[0])).hexdigest()
    assert [(one.place, one.sha256) for one in first.near_duplicates] == [(12, original)]
    second = await send(*copies)
    assert (second.created, second.known, second.near_identical) == (2, 1, 2)
    assert [one.place for one in second.near_duplicates] == [1, 2]
    assert second.near_duplicates[1].sha256 == hashlib.sha256(png(faces[5])).hexdigest()
    # What is derived from a picture goes with it.
    erase = pb.DeleteImageRequest(sha256=original, requested_by="dpo", request_id="ticket")
    await stub.DeleteImage(erase)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT sha256 FROM feedback.images WHERE perceptual_hash IS NOT NULL"
        ).fetchall()
    assert len(rows) == 14
    assert original not in {sha256.hex() for (sha256,) in rows}


async def test_a_label_stores_the_hash_of_its_pictures_too(stub: Stub) -> None:
    face = render_person(3, 0)
    sent = pb.ImageRef(image=image_pb2.Image(data=png(face)))
    label = await stub.SubmitFeedback(request(image_a=sent))
    copy = cv2.imencode(".jpg", face)[1].tobytes()
    answer = await stub.ImportImages(sending((copy, "")))
    assert [one.sha256 for one in answer.near_duplicates] == [label.sha256_a]


async def test_without_a_detector_photographs_are_imported_unseen(
    settings: FeedbackSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hide_detector(monkeypatch, tmp_path)
    wall = image_pb2.Image(data=encode_jpeg(photograph()), alignment=image_pb2.ALIGNMENT_DETECT)

    async def requests() -> AsyncIterator[pb.ImportImagesRequest]:
        yield pb.ImportImagesRequest(image=wall)

    async with stub_on(settings) as stub:
        assert (await stub.ImportImages(requests())).created == 1


async def test_an_image_keeps_all_names_and_a_second_one_is_reported(
    stub: Stub, database_url: str
) -> None:
    await stub.SubmitFeedback(request(1, 2))
    reports = [
        await stub.ImportImages(sending((picture(1), identity)))
        for identity in ("", "ann", "ann", "bob")
    ]
    assert subjects(database_url) == {sha256(1): "ann,bob"}
    assert [one.named_otherwise for one in reports] == [0, 0, 0, 1]
    assert [(one.place, *one.identities) for one in reports[3].other_names] == [(0, "ann")]


async def test_the_same_bytes_under_two_names_in_one_stream_have_both(
    stub: Stub, database_url: str
) -> None:
    sent = ((picture(1), "ann"), (picture(2), "bob"), (picture(1), "bob"), (picture(1), ""))
    answer = await stub.ImportImages(sending(*sent))
    assert (answer.created, answer.known, answer.named_otherwise) == (2, 2, 2)
    assert [(one.place, *one.identities) for one in answer.other_names] == [(0, "bob"), (2, "ann")]
    assert subjects(database_url) == {sha256(1): "ann,bob", sha256(2): "bob"}


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_all_spellings_of_a_name_are_one(
    stub: Stub, database_url: str, spelling: str
) -> None:
    answer = await stub.ImportImages(sending((picture(1), "Zo\u00eb Roe"), (picture(1), spelling)))
    assert (answer.rejected, answer.named_otherwise) == (0, 0)
    assert subjects(database_url) == {sha256(1): "Zo\u00eb Roe"}


async def test_a_name_that_looks_like_another_is_rejected(stub: Stub, database_url: str) -> None:
    sent = [(picture(number), name) for number, name in enumerate(LOOKALIKES)]
    answer = await stub.ImportImages(sending(*sent))
    assert answer.rejected == len(LOOKALIKES)
    assert all(one.why.startswith("identity: holds U+") for one in answer.rejections)
    assert not subjects(database_url)


async def test_bytes_that_are_stored_as_something_else_are_rejected(stub: Stub) -> None:
    await stub.ImportImages(sending((picture(1), "")))
    landmarks = [image_pb2.Point(x=x, y=y) for x, y in ARCFACE_TEMPLATE.tolist()]

    async def otherwise() -> AsyncIterator[pb.ImportImagesRequest]:
        image = marked(picture(1), landmarks=landmarks)
        yield pb.ImportImagesRequest(image=image)

    answer = await stub.ImportImages(otherwise())
    assert (answer.created, answer.known, answer.rejected) == (0, 0, 1)
    assert "another alignment" in answer.rejections[0].why


async def test_the_same_pool_sent_by_many_at_once_is_stored_once(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    pool = [(picture(number), "") for number in range(40)]
    answers = await asyncio.gather(*[stub.ImportImages(sending(*pool)) for _ in range(6)])
    assert sum(answer.created for answer in answers) == 40
    assert sum(answer.known for answer in answers) == 200
    assert stored() == Stored(40, 0, 0, 0, 0, objects=40)


async def test_without_an_object_store_no_row_is_stored_and_it_says_unavailable(
    settings: FeedbackSettings, object_store: ObjectStore, stored: Callable[[], Stored]
) -> None:
    await prepare_stores(settings, object_store)
    away = settings.model_copy(update={"s3_endpoint": "127.0.0.1:9", "s3_timeout_s": 0.5})
    gone = ObjectStore(away)
    async with (
        open_label_service(settings, vaults(settings, object_store)) as (_, pool),
        open_pairs_backend(settings, gone, vaults(settings, gone), pool) as (pairs, _),
    ):

        async def one() -> AsyncIterator[PoolImage]:
            yield PoolImage(FaceImage(picture(1), on_no_face="mark"))

        with pytest.raises(Unavailable):
            images = BudgetedRequests(one(), image_bytes, ByteBudget(2**30))
            await pairs.importer.import_images(images)
    assert stored() == Stored(0, 0, 0, 0, 0, objects=0)
