"""What the holder of a token may do with labels, leases and images."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1.feedback_pb2_grpc import FeedbackServiceStub

from services.feedback.server import feedback_service
from services.feedback.settings import FeedbackSettings
from shared.rpc.channel import open_channel
from shared.rpc.server.runner import running_server
from tests.services.feedback.support.helpers import known, marked, picture, request, sent, sha256
from tests.support.tokens import Issuer, bearer, write_jwks
from tests.support.waiting import until

DENIED = grpc.StatusCode.PERMISSION_DENIED


class Person:
    """Calls the service with a token."""

    def __init__(self, stub: Any, token: str) -> None:
        self._stub = stub
        self._metadata = bearer(token)

    async def call(self, method: str, request: Any) -> Any:
        call = getattr(self._stub, method)
        return await call(request, metadata=self._metadata, timeout=20, wait_for_ready=True)

    async def code(self, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.call(method, request)
        return failed.value.code(), failed.value.details() or ""

    async def label(self, a: Any, b: Any, key: str, **fields: Any) -> Any:
        made = request(image_a=a, image_b=b, idempotency_key=key, **{"annotator": ""} | fields)
        return await self.call("SubmitFeedback", made)

    async def image(self, number: int) -> bytes:
        answer = await self.call("GetImage", pb.GetImageRequest(sha256=sha256(number)))
        return bytes(answer.image.data)

    async def image_code(self, number: int) -> grpc.StatusCode:
        code, text = await self.code("GetImage", pb.GetImageRequest(sha256=sha256(number)))
        assert "is not leased and was not sent by 'anna'" in text
        return code

    async def stream(self, *requests: pb.SubmitFeedbackRequest) -> list[pb.FeedbackResult]:
        parts = [pb.SubmitFeedbackStreamRequest(feedback=one) for one in requests]
        call = self._stub.SubmitFeedbackStream(iter(parts), metadata=self._metadata, timeout=20)
        return [result async for answer in call for result in answer.results]


class People:
    """One of each role."""

    def __init__(self, channel: grpc.aio.Channel, issuer: Issuer) -> None:
        stub = FeedbackServiceStub(channel)

        def make(subject: str, *roles: str) -> Person:
            return Person(stub, issuer.token(*roles, subject=subject))

        self.anna, self.bob = make("anna", "annotator"), make("bob", "annotator")
        self.tool, self.operator = make("tool", "labeller"), make("olga", "operator")
        self.trainer = make("trainer", "trainer")


@asynccontextmanager
async def _people(settings: FeedbackSettings, jwks: Path) -> AsyncIterator[People]:
    issuer = Issuer()
    settings = settings.model_copy(update={"jwks": str(write_jwks(jwks, issuer))})
    service = partial(feedback_service, settings)
    async with (
        running_server(settings, "magface.v1.FeedbackService", service) as address,
        open_channel(address) as channel,
    ):
        people = People(channel, issuer)
        await people.operator.call("GetStats", pb.GetStatsRequest())
        yield people


@pytest.fixture
async def people(settings: FeedbackSettings, tmp_path: Path) -> AsyncIterator[People]:
    async with _people(settings, tmp_path / "jwks") as people:
        yield people


def _annotators(database_url: str) -> set[str]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT DISTINCT annotator FROM feedback.labels").fetchall()
    return {row[0] for row in rows}


def _lease(database_url: str, annotator: str, a: int, b: int, seconds: int) -> None:
    first, second = sorted(bytes.fromhex(sha256(one)) for one in (a, b))
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.leases (image_a, image_b, annotator, strategy, expires_at)"
            " VALUES (%s, %s, %s, 'random', now() + %s * interval '1 second')",
            (first, second, annotator, seconds),
        )


async def test_an_annotator_labels_in_their_own_name_alone(
    people: People, database_url: str
) -> None:
    await people.anna.label(sent(1), sent(2), "a")
    code, text = await people.anna.code("SubmitFeedback", request(1, 2, annotator="bob"))
    assert code is DENIED
    assert "annotator: the token is for 'anna'" in text
    code, _ = await people.anna.code("NextPairs", pb.NextPairsRequest(annotator="bob"))
    assert code is DENIED
    results = await people.anna.stream(
        request(3, 4, annotator="bob", idempotency_key="b"),
        request(3, 4, annotator="anna", idempotency_key="c"),
        request(5, 6, annotator="", idempotency_key="d"),
    )
    codes = {one.idempotency_key: one.refused.code for one in results}
    assert codes == {"b": DENIED.value[0], "c": 0, "d": 0}
    assert _annotators(database_url) == {"anna"}


async def test_a_labelling_client_labels_for_any_annotator(
    people: People, database_url: str
) -> None:
    await people.tool.label(sent(1), sent(2), "a", annotator="carl")
    await people.tool.label(sent(1), sent(2), "b", annotator="dora")
    await people.tool.label(sent(1), sent(2), "c")
    assert _annotators(database_url) == {"carl", "dora", "tool"}


async def test_keys_belong_to_the_caller(people: People) -> None:
    """Nobody can use up another's key, and nobody learns what it was used for."""
    first = await people.bob.label(sent(1), sent(2), "key")
    taken = await people.anna.label(sent(3), sent(4), "key")
    assert first.created and taken.created
    again = await people.bob.label(sent(1), sent(2), "key")
    assert (again.created, again.label_id) == (False, first.label_id)
    made = request(5, 6, annotator="", idempotency_key="key")
    code, text = await people.anna.code("SubmitFeedback", made)
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "bob" not in text


async def test_an_annotator_sees_what_they_sent_and_what_is_leased_to_them(
    people: People, database_url: str
) -> None:
    await people.bob.label(sent(1), sent(2), "a")
    await people.anna.label(sent(3), sent(4), "b")
    assert await people.anna.image(3) == picture(3)
    # Stored by another, and not stored at all: the answers are alike.
    assert await people.anna.image_code(1) is DENIED
    assert await people.anna.image_code(99) is DENIED
    _lease(database_url, "anna", 1, 2, seconds=600)
    assert await people.anna.image(1) == picture(1)
    assert await people.anna.image(2) == picture(2)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE feedback.leases SET expires_at = now() - interval '1 s'")
    assert await people.anna.image_code(1) is DENIED
    _lease(database_url, "bob", 3, 4, seconds=600)
    assert await people.bob.image(4) == picture(4)


async def test_a_label_by_hash_opens_no_image(people: People, database_url: str) -> None:
    await people.bob.label(sent(1), sent(2), "a")
    for a, b in ((known(1), known(2)), (sent(3), known(1)), (known(1), known(99))):
        made = request(image_a=a, image_b=b, annotator="", idempotency_key="b")
        code, text = await people.anna.code("SubmitFeedback", made)
        assert code is DENIED
        assert "is not leased" in text
    refused = await people.anna.stream(
        request(image_a=known(1), image_b=known(2), annotator="", idempotency_key="c")
    )
    assert [one.refused.code for one in refused] == [DENIED.value[0]]
    _lease(database_url, "anna", 1, 2, seconds=600)
    await people.anna.label(known(1), known(2), "d")
    # What was labelled under a lease is not read for ever.
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE feedback.leases SET expires_at = now() - interval '1 s'")
    assert await people.anna.image_code(1) is DENIED


async def test_other_roles_see_what_they_need(people: People, database_url: str) -> None:
    await people.bob.label(sent(1), sent(2), "a")
    assert await people.operator.image(1) == picture(1)
    assert await people.trainer.image(1) == picture(1)
    code, _ = await people.tool.code("GetImage", pb.GetImageRequest(sha256=sha256(1)))
    assert code is DENIED
    _lease(database_url, "anna", 1, 2, seconds=600)
    assert await people.tool.image(1) == picture(1)


async def test_a_lease_is_for_the_caller(people: People, database_url: str) -> None:
    images = [pb.ImportImagesRequest(image=marked(picture(one))) for one in range(6)]
    answer = await people.operator.call("ImportImages", iter(images))
    assert answer.created == 6

    pairs: list[pb.LeasedPair] = []

    async def leased() -> bool:
        answer = await people.anna.call("NextPairs", pb.NextPairsRequest(count=1))
        pairs.extend(answer.pairs)
        return bool(pairs)

    await until(leased, 20)
    with psycopg.connect(database_url) as connection:
        holders = connection.execute("SELECT annotator FROM feedback.leases").fetchall()
    assert {holder[0] for holder in holders} == {"anna"}
    request_ = pb.GetImageRequest(sha256=pairs[0].sha256_a)
    assert (await people.anna.call("GetImage", request_)).image.data
    code, _ = await people.bob.code("GetImage", request_)
    assert code is DENIED


async def test_what_an_erased_image_leaves_is_no_upload(people: People, database_url: str) -> None:
    await people.anna.label(sent(1), sent(2), "a")
    erase = pb.DeleteImageRequest(sha256=sha256(1), request_id="r")
    await people.operator.call("DeleteImage", erase)
    assert await people.anna.image_code(1) is DENIED
    audit = await people.operator.call("ListAudit", pb.ListAuditRequest())
    assert audit.entries[0].actor == "olga"
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT sha256 FROM feedback.image_uploads").fetchall()
    assert [bytes(row[0]).hex() for row in rows] == [sha256(2)]
