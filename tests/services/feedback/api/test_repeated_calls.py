"""Tests of repeated calls: a repetition after a lost answer has no second effect."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.message import Message
from magface.v1 import feedback_pb2 as pb
from magface.v1.feedback_pb2_grpc import FeedbackServiceStub
from psycopg import sql

from services.feedback.server import feedback_service
from services.feedback.settings import FeedbackSettings
from shared.errors import AlreadyExists, PreconditionFailed, Unavailable
from shared.rpc.channel import open_channel
from shared.rpc.errors import domain_errors
from shared.rpc.server.runner import running_server
from tests.services.feedback.support.candidates import prepare_images, prepare_pairs
from tests.services.feedback.support.helpers import marked, picture, request, sha256
from tests.support.cut_link import CutLink, cut_link
from tests.support.idempotency import keyed_methods

KEY = "key-1"
SUBJECT = "somebody"
_ERASE = {"requested_by": "ada", "request_id": KEY}


@dataclass(frozen=True)
class World:
    """The service, behind a link that can be cut."""

    database_url: str
    address: str
    link: CutLink

    def rows(self, table: str) -> int:
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("feedback", table))
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


@dataclass(frozen=True)
class Case:
    """A call, and the rows that it adds to a table."""

    request: Callable[[], Message | Iterable[Message]]
    table: str
    adds: int = 1


def label() -> pb.SubmitFeedbackRequest:
    return request(1, 3, idempotency_key=KEY)


def next_pairs(**changes: Any) -> pb.NextPairsRequest:
    given = {"annotator": "ann", "count": 5, "idempotency_key": KEY}
    return pb.NextPairsRequest(**(given | changes))


def pool_images(*numbers: int) -> Iterable[pb.ImportImagesRequest]:
    for number in numbers:
        image = marked(picture(number))
        yield pb.ImportImagesRequest(image=image, identity=SUBJECT)


KEYED = {
    "SubmitFeedback": Case(label, "labels"),
    "SubmitFeedbackStream": Case(
        lambda: iter([pb.SubmitFeedbackStreamRequest(feedback=label())]), "labels"
    ),
    "DeleteImage": Case(lambda: pb.DeleteImageRequest(sha256=sha256(1), **_ERASE), "audit"),
    "DeleteSubject": Case(lambda: pb.DeleteSubjectRequest(subject=SUBJECT, **_ERASE), "audit"),
    "NextPairs": Case(next_pairs, "leases", adds=5),
}
CASES = KEYED | {
    "ImportImages": Case(lambda: pool_images(7, 8, 9), "images", adds=3),
    "ExportPairs": Case(pb.ExportPairsRequest, "snapshots"),
}


@pytest.fixture
async def world(settings: FeedbackSettings, database_url: str) -> AsyncIterator[World]:
    """A service with one label, two images of a person, and pairs prepared for people."""
    prepare_images(database_url, 100)
    prepare_pairs(database_url, 40)
    service = partial(feedback_service, settings)
    async with running_server(settings, "magface.v1.FeedbackService", service) as address:
        async with open_channel(address) as channel:
            stub = await connect(channel)
            await stub.ImportImages(pool_images(1, 2))
            await stub.SubmitFeedback(request(1, 2))
        with cut_link(address) as link:
            yield World(database_url, address, link)


async def connect(channel: grpc.aio.Channel) -> FeedbackServiceStub:
    stub = FeedbackServiceStub(channel)
    await stub.GetStats(pb.GetStatsRequest(), timeout=20, wait_for_ready=True)
    return stub


async def call(stub: FeedbackServiceStub, name: str, **changes: Any) -> list[Any]:
    """Make a case's call, and give its answers."""
    asked: Any = CASES[name].request(**changes)
    method = pb.DESCRIPTOR.services_by_name["FeedbackService"].methods_by_name[name]
    with domain_errors():
        if method.server_streaming:
            return [answer async for answer in getattr(stub, name)(asked, timeout=20)]
        return [await getattr(stub, name)(asked, timeout=20)]


@pytest.mark.parametrize("name", CASES)
async def test_a_repetition_after_a_lost_answer_has_no_effect(world: World, name: str) -> None:
    case = CASES[name]
    before = world.rows(case.table)
    async with grpc.aio.insecure_channel(world.link.address) as channel:
        stub = await connect(channel)
        world.link.cut_next_answer()
        with pytest.raises(Unavailable):
            await call(stub, name)
        assert world.link.cuts == 1
        assert world.rows(case.table) == before + case.adds
        again = [await call(stub, name) for _ in range(2)]
    assert again[0] == again[1]
    assert world.rows(case.table) == before + case.adds


@pytest.mark.parametrize("name", CASES)
async def test_a_channel_of_ours_repeats_a_call_whose_answer_is_lost(
    world: World, name: str
) -> None:
    case = CASES[name]
    before = world.rows(case.table)
    async with open_channel(world.link.address) as channel:
        stub = await connect(channel)
        world.link.cut_next_answer()
        await call(stub, name)
    assert world.link.cuts == 1
    assert world.rows(case.table) == before + case.adds


@pytest.mark.parametrize("name", CASES)
async def test_calls_made_at_once_have_one_effect(world: World, name: str) -> None:
    case = CASES[name]
    before = world.rows(case.table)
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        answers = await asyncio.gather(*[call(stub, name) for _ in range(4)])
    assert world.rows(case.table) == before + case.adds
    if name in ("NextPairs", "ExportPairs"):
        assert all(answer == answers[0] for answer in answers)


async def test_the_key_of_a_wish_for_pairs_belongs_to_its_content_and_annotator(
    world: World,
) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        (mine,) = await call(stub, "NextPairs")
        for other in ({"count": 6}, {"strategy": pb.STRATEGY_RANDOM}):
            with pytest.raises(AlreadyExists, match=KEY):
                await call(stub, "NextPairs", **other)
        (others,) = await call(stub, "NextPairs", annotator="bob")
        (more,) = await call(stub, "NextPairs", idempotency_key="key-2", count=8)
    leases = [{pair.lease_id for pair in answer.pairs} for answer in (mine, others, more)]
    assert [len(ids) for ids in leases] == [5, 5, 8]
    assert leases[0] < leases[2]
    assert not leases[1] & leases[2]


async def test_leases_of_an_image_erased_since_are_not_given_again(world: World) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        (first,) = await call(stub, "NextPairs")
        erased = first.pairs[2].sha256_a
        await stub.DeleteImage(pb.DeleteImageRequest(sha256=erased, **_ERASE), timeout=20)
        (again,) = await call(stub, "NextPairs")
    # Pairs are drawn at random, so the image may be in several of them.
    left = [pair for pair in first.pairs if erased not in (pair.sha256_a, pair.sha256_b)]
    assert len(left) < len(first.pairs)
    assert list(again.pairs) == left


async def test_a_wish_without_a_key_is_not_carried_out_twice_by_a_channel(world: World) -> None:
    async with open_channel(world.link.address) as channel:
        stub = await connect(channel)
        world.link.cut_next_answer()
        with pytest.raises(PreconditionFailed, match="idempotency_key"):
            await call(stub, "NextPairs", idempotency_key="")
        assert world.rows("leases") == 5
        (again,) = await call(stub, "NextPairs", idempotency_key="")
        assert len(again.pairs) == world.rows("leases") == 5


async def test_a_snapshot_is_taken_anew_once_something_was_labelled_or_erased(
    world: World,
) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        await stub.SubmitFeedback(request(3, 4))
        taken = [await _snapshot(stub)]
        await stub.SubmitFeedback(request(5, 6))
        taken.append(await _snapshot(stub))
        # An image without a label is in no snapshot.
        await stub.ImportImages(pool_images(9))
        await _erase(stub, 9)
        assert await _snapshot(stub) == taken[-1]
        # The labels of this one are not the newest.
        await _erase(stub, 3)
        taken.append(await _snapshot(stub))
        await _erase(stub, 5)
        taken.append(await _snapshot(stub))
        assert await _snapshot(stub) == taken[-1]
    assert len(set(taken)) == 4


async def _snapshot(stub: FeedbackServiceStub) -> str:
    return str((await call(stub, "ExportPairs"))[0].snapshot_id)


async def _erase(stub: FeedbackServiceStub, number: int) -> None:
    erase = pb.DeleteImageRequest(
        sha256=sha256(number), requested_by="ada", request_id=f"erase-{number}"
    )
    await stub.DeleteImage(erase, timeout=20)


def test_every_method_with_a_key_is_covered() -> None:
    service = pb.DESCRIPTOR.services_by_name["FeedbackService"]
    assert set(KEYED) == keyed_methods(service)
