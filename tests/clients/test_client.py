"""The Python client on real services."""

import dataclasses
import hashlib
import io
import itertools
import socket
import time
import uuid
from pathlib import Path

import cv2
import numpy as np
import psycopg
import pytest
from magface_client import (
    Access,
    AsyncClient,
    ByHash,
    Client,
    DeadlineError,
    FaceBox,
    InvalidArgumentError,
    NotFoundError,
    Picture,
    SavedEmbedding,
    UnavailableError,
    calls,
)

from deploy.local.endpoints import Endpoints
from tests.support.cut_link import cut_link
from tests.support.processes import free_port


def test_an_image_may_be_a_path_bytes_or_a_file(client: Client, pictures: list[Path]) -> None:
    first, second, other = pictures
    same = client.verify(str(first), second)
    assert same.decision == "same"
    assert same.similarity > same.threshold
    assert same.face_a is not None
    assert same.face_a.faces_found == 0  # an aligned crop
    data = first.read_bytes()
    for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), Picture(first)):
        assert client.verify(source, other).similarity == pytest.approx(
            client.verify(first, other).similarity
        )
    with pytest.raises(dataclasses.FrozenInstanceError):
        same.decision = "different"  # type: ignore[misc]
    with pytest.raises(TypeError, match="compare"):
        bool(same)
    with pytest.raises(TypeError, match="no image"):
        client.verify(3, first)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        client.verify("no-such.jpg", first)


def test_a_saved_embedding_is_a_side(client: Client, pictures: list[Path]) -> None:
    first, second, _ = pictures
    expected = client.verify(first, second)
    face = client.embed(first)
    assert len(face.vector) * 4 == len(face.embedding)
    assert np.linalg.norm(face.vector) == pytest.approx(1)
    saved = SavedEmbedding(face.embedding, face.model_version, face.magnitude)
    for side in (face, saved):
        answer = client.verify(side, second, minimum_quality=0)
        assert answer.similarity == pytest.approx(expected.similarity, abs=1e-5)
        assert answer.face_a is None
        assert answer.face_b == expected.face_b
    strict = client.verify(first, second, minimum_quality=1)
    assert strict.decision == "unsure"
    assert strict.unsure_reason


def test_many_and_a_stream_give_the_same_faces(client: Client, pictures: list[Path]) -> None:
    many = client.embed_many(pictures)
    images = [
        (number, path if number < 70 else b"no image")
        for number, path in zip(range(73), itertools.cycle(pictures), strict=False)
    ]
    images.insert(40, ("missing", Path("no-such.jpg")))
    answers = {answer.key: answer for answer in client.embed_stream(iter(images))}
    assert answers.keys() == {key for key, _ in images}
    for number in range(70):
        face = answers[number].face
        assert face is not None
        assert np.dot(face.vector, many[number % 3].vector) > 0.999
    assert isinstance(answers["missing"].error, FileNotFoundError)
    for number in (70, 71, 72):
        assert isinstance(answers[number].error, InvalidArgumentError)


def test_a_fault_of_the_callers_images_ends_the_stream(
    client: Client, pictures: list[Path]
) -> None:
    def images():
        yield 1, pictures[0]
        raise UnavailableError("the caller's own", "UNAVAILABLE")

    with pytest.raises(UnavailableError, match="the caller's own"):
        list(client.embed_stream(images()))


def test_a_broken_stream_goes_on(endpoints: Endpoints, pictures: list[Path]) -> None:
    with (
        cut_link(endpoints.embedders[0]) as link,
        Client(embedder=link.address, access=Access()) as client,
    ):
        client.model()
        answers = []
        for answer in client.embed_stream((n, pictures[n % 3]) for n in range(100)):
            answers.append(answer)
            if len(answers) in (5, 50):
                link.cut_now()
    assert sorted(answer.key for answer in answers) == list(range(100))
    assert all(answer.face for answer in answers)


def test_the_service_names_the_invalid_field(client: Client, pictures: list[Path]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.verify(pictures[0], b"no image")
    assert caught.value.field == "b.image.data"
    assert "embedder at " in str(caught.value)
    with pytest.raises(InvalidArgumentError) as caught:
        client.feedback(pictures[0], pictures[1], "same", idempotency_key="")
    assert caught.value.field in ("annotator", "idempotency_key")
    for wrong in ("yes", "SAME", ""):
        with pytest.raises(ValueError, match="is not one of same, different, unsure"):
            client.feedback(pictures[0], pictures[1], wrong)  # type: ignore[arg-type]


def test_photographs_are_searched_for_faces(
    client: Client, pictures: list[Path], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.png"
    cv2.imwrite(str(empty), np.full((200, 300, 3), 90, np.uint8))
    found = client.detect_faces(empty)
    assert (found.width, found.height, found.faces) == (300, 200, ())
    with pytest.raises(InvalidArgumentError, match="no face"):
        client.embed(empty)
    with pytest.raises(InvalidArgumentError) as caught:
        client.embed(Picture(pictures[0], box=FaceBox(-1e6, 0, 1, 1)))
    assert caught.value.field.startswith("images[0]")


def test_a_lost_answer_stores_the_label_once(
    endpoints: Endpoints, client: Client, pictures: list[Path]
) -> None:
    with (
        cut_link(endpoints.feedback) as link,
        Client(feedback=link.address, access=Access()) as cut,
    ):
        cut.feedback(pictures[0], pictures[1], "same", annotator="lost-1")
        link.cut_next_answer()
        receipt = cut.feedback(pictures[0], pictures[1], "same", annotator="lost-2")
        assert link.cuts == 1
    assert not receipt.created  # the repeated call found the label of the first one
    other = client.feedback(
        ByHash(receipt.sha256_a), ByHash(receipt.sha256_b), "different", annotator="lost-2"
    )
    assert other.created
    assert other.idempotency_key != receipt.idempotency_key
    stored = client.image(receipt.sha256_a)
    assert hashlib.sha256(stored.image.data).hexdigest() == stored.data_sha256
    assert stored.image.alignment == "aligned"


def test_a_decision_is_contested(
    endpoints: Endpoints, client: Client, pictures: list[Path]
) -> None:
    verified = client.verify(pictures[0], pictures[2])
    receipt = client.contest(verified, annotator="contester")
    assert receipt.created
    repeated = client.contest(verified, annotator="contester")
    assert (repeated.created, repeated.label_id) == (False, receipt.label_id)
    with psycopg.connect(endpoints.database_url) as connection:
        row = connection.execute(
            "SELECT label, model_version, similarity, threshold FROM feedback.labels"
            " WHERE label_id = %s",
            (receipt.label_id,),
        ).fetchone()
    assert row is not None
    assert row[0] == {"same": "different", "different": "same"}[verified.decision]
    assert row[1] == verified.model_version
    assert row[2] == pytest.approx(verified.similarity)
    assert row[3] == pytest.approx(verified.threshold)
    with pytest.raises(ValueError, match="stored embedding"):
        client.contest(client.verify(client.embed(pictures[0]), pictures[1]))
    unsure = client.verify(pictures[0], pictures[2], minimum_quality=1)
    with pytest.raises(ValueError, match="unsure"):
        client.contest(unsure)
    assert client.contest(unsure, "different", annotator="contester").created


def test_lists_are_read_page_by_page(
    client: Client, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for a, b in itertools.combinations(pictures, 2):
        client.feedback(a, b, "same", annotator="pages")
    whole = [pair.pair_id for pair in client.pairs()]
    assert len(whole) >= 3
    monkeypatch.setattr(calls, "_PAGE_SIZE", 2)
    assert [pair.pair_id for pair in client.pairs()] == whole
    assert all(pair.consensus == "same" for pair in client.pairs("same"))
    versions = list(client.models())
    serving = [version.model_version for version in versions if version.serving]
    assert serving == [client.model().model_version]
    assert versions[-1].created_at is not None
    assert versions[-1].created_at.tzinfo is not None
    for listed in (client.jobs, client.audit, client.evaluations, client.promotions):
        list(listed())
    assert next(client.promotions()).model_version == serving[0]
    with pytest.raises(NotFoundError):
        list(client.left_out(str(uuid.uuid4())))
    with pytest.raises(InvalidArgumentError) as caught:
        list(client.left_out("no-such-job"))
    assert caught.value.field == "job_id"


def test_pairs_are_leased(client: Client, pictures: list[Path]) -> None:
    client.feedback(pictures[0], pictures[1], "same", annotator="leases")
    leased = client.next_pairs("somebody", count=1, strategy="random")
    assert leased.pairs or leased.note


def test_a_server_that_is_not_there_is_unavailable() -> None:
    begin = time.monotonic()
    with (
        Client(embedder=f"127.0.0.1:{free_port()}", access=Access()) as client,
        pytest.raises(UnavailableError, match=r"embedder at 127\.0\.0\.1"),
    ):
        client.model()
    assert time.monotonic() - begin < 15


async def test_a_call_ends_by_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(embedder=address, access=Access()) as client, pytest.raises(DeadlineError):
            client.model(timeout_s=0.3)
        async with AsyncClient(embedder=address, access=Access(), timeout_s=0.3) as aio:
            with pytest.raises(DeadlineError):
                await aio.model()


def test_a_timeout_is_above_zero(client: Client) -> None:
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0"):
            client.model(timeout_s=wrong)


def test_a_closed_client_says_so(endpoints: Endpoints) -> None:
    client = Client(embedder=endpoints.embedder, access=Access())
    client.model()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.model()


async def test_the_async_client_does_the_same(
    endpoints: Endpoints, client: Client, pictures: list[Path]
) -> None:
    addresses = {name: getattr(endpoints, name) for name in ("embedder", "feedback", "trainer")}
    async with AsyncClient(**addresses, access=Access()) as aio:
        verified = await aio.verify(pictures[0], pictures[1])
        assert verified == client.verify(pictures[0], pictures[1])
        assert await aio.embed(pictures[0]) == client.embed(pictures[0])
        receipt = await aio.contest(verified, annotator="async")
        assert receipt.created
        assert not (await aio.contest(verified, annotator="async")).created
        assert [pair async for pair in aio.pairs()] == list(client.pairs())
        assert [one async for one in aio.models()] == list(client.models())
        keys = [answer.key async for answer in aio.embed_stream(enumerate(pictures * 20))]
        assert sorted(keys) == list(range(60))

        async def images():
            for number, path in enumerate(pictures):
                yield number, path

        assert len([answer async for answer in aio.embed_stream(images()) if answer.face]) == 3
        with pytest.raises(InvalidArgumentError) as caught:
            await aio.verify(b"no image", pictures[0])
        assert caught.value.field == "a.image.data"
        with cut_link(endpoints.embedders[0]) as link:
            async with AsyncClient(embedder=link.address, access=Access()) as cut:
                await cut.model()
                link.cut_next_answer()
                seen = [one async for one in cut.embed_stream(enumerate(pictures * 20))]
                assert link.cuts == 1
                assert sorted(one.key for one in seen if one.face) == list(range(60))
