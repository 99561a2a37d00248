"""Calls that are repeated with their idempotency key have one effect."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from magface.v1 import trainer_pb2 as pb
from magface.v1 import trainer_pb2_grpc
from magface.v1.trainer_pb2_grpc import TrainerServiceStub
from psycopg import sql

from cli.commands.models.versions import upload_checkpoint
from services.trainer.api.service import Trainer
from services.trainer.api.servicer import TrainerServicer
from services.trainer.jobs.leases import JobLeases
from services.trainer.jobs.queue import JobKind, JobQueue
from services.trainer.jobs.uploads import UploadStore
from services.trainer.registry.evaluations import EvaluationStore
from services.trainer.registry.operating_points import OperatingPoints
from services.trainer.registry.replicas import ReplicaWatch
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.shadow import ShadowPublisher
from services.trainer.registry.suspects import SuspectLabels
from services.trainer.registry.versions import VersionRegistry
from services.trainer.server import SERVICE_NAME
from shared.errors import AlreadyExists, Conflict, PreconditionFailed, Unavailable
from shared.registry.shadow_pointer import read_shadow
from shared.rpc.channel import open_channel, open_sync_channel
from shared.rpc.errors import domain_errors
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import running_server
from shared.settings import ServerSettings
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction
from tests.services.trainer.samples import IMPORT, add_sample, files_are_there
from tests.support.cut_link import CutLink, cut_link
from tests.support.idempotency import keyed_methods

KEY = "key-1"
SETTINGS = ServerSettings(listen="127.0.0.1:0", stop_grace_s=5.0)


@dataclass(frozen=True)
class State:
    """Effects of calls: numbers of rows, and the shadow candidate."""

    jobs: int
    job_events: int
    serving_history: int
    shadow: str


@dataclass(frozen=True)
class World:
    """A trainer without a runner, behind a network link that can be cut."""

    trainer: Trainer
    pool: Pool
    objects: ObjectStore
    address: str
    link: CutLink
    job_id: str

    async def state(self) -> State:
        counts = []
        async with transaction(self.pool) as connection:
            for table in fields(State)[:3]:
                query = sql.SQL("SELECT count(*) FROM {}")
                table_name = sql.Identifier("trainer", table.name)
                cursor = await connection.execute(query.format(table_name))
                counts += [number for (number,) in await cursor.fetchall()]
        shadow = read_shadow(self.objects)
        return State(*counts, shadow.model_version if shadow else "")

    async def newest_job(self) -> str:
        (job,) = await self.trainer.jobs.list(1)
        return str(job.job_id)


@dataclass(frozen=True)
class Case:
    """A call, the rows it adds, and changes that make it another request."""

    request: Message
    other: dict[str, Any]
    jobs: int = 0
    job_events: int = 0
    generations: int = 0
    chunk: bytes = b""


def job(request: Message, **other: Any) -> Case:
    return Case(request, other, jobs=1, job_events=1)


CASES = {
    "StartTraining": job(pb.StartTrainingRequest(), no_promotion=True),
    "ImportModel": Case(
        pb.ImportOptions(threshold=0.5), {"threshold": 0.6}, jobs=1, job_events=1, chunk=b"network"
    ),
    "EvaluateModel": job(pb.EvaluateModelRequest(), data_snapshot="other"),
    "QuantizeModel": job(pb.QuantizeModelRequest(), model_version="v1"),
    "JudgeModel": job(pb.JudgeModelRequest(model_version="v1"), model_version="v3"),
    "CancelJob": Case(pb.CancelJobRequest(), {"job_id": "0" * 32}, job_events=1),
    "PromoteModel": Case(
        pb.PromoteModelRequest(model_version="v1", reason="better"),
        {"reason": "worse"},
        generations=1,
    ),
    "Rollback": Case(pb.RollbackRequest(reason="worse"), {"expected_generation": 2}, generations=1),
    "SetOperatingPoint": Case(
        pb.SetOperatingPointRequest(target_fmr=0.01, reason="contract"),
        {"target_fmr": 0.02},
        generations=1,
    ),
    "ShadowModel": Case(pb.ShadowModelRequest(model_version="v1"), {"model_version": "v3"}),
}


@pytest.fixture
async def world(pool: Pool, object_store: ObjectStore, tmp_path: Path) -> AsyncIterator[World]:
    """A trainer where v2 serves after v1, with one queued job."""
    trainer = Trainer(
        JobQueue(pool),
        VersionRegistry(pool, files_are_there),
        EvaluationStore(pool, object_store),
        SuspectLabels(pool, object_store),
        operating_points=OperatingPoints(pool),
        uploads=UploadStore(object_store, tmp_path, 2**20),
        pointer=ServingPointerPublisher(pool, object_store),
        replicas=ReplicaWatch(object_store),
        shadow=ShadowPublisher(pool, object_store),
    )
    for name in ("v1", "v2", "v3"):
        await add_sample(pool, name, kind=JobKind.TRAIN)
    for name in ("v1", "v2"):
        await _promote(trainer, name)
    waiting = await trainer.jobs.create(JobKind.IMPORT, IMPORT, "ada")

    @asynccontextmanager
    async def build(server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        servicer = TrainerServicer(lifecycle.stopping)
        servicer.trainer.set(trainer)
        trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server)
        await lifecycle.set_ready(True)
        yield

    async with running_server(SETTINGS, SERVICE_NAME, build) as address:
        with cut_link(address) as link:
            yield World(trainer, pool, object_store, address, link, str(waiting.job_id))


async def _promote(trainer: Trainer, name: str) -> None:
    await trainer.promote(
        name, requested_by="bob", reason="", override_gate=False, expected_generation=None
    )


async def call(world: World, stub: TrainerServiceStub, name: str, **changes: Any) -> Any:
    """Make the call of a case, requested by ada with the key, with changes."""
    case = CASES[name]
    request = type(case.request)()
    request.CopyFrom(case.request)
    given: dict[str, Any] = {"requested_by": "ada", "idempotency_key": KEY}
    if name == "CancelJob":
        given["job_id"] = world.job_id
    chunk = changes.pop("chunk", case.chunk)
    for key, value in (given | changes).items():
        setattr(request, key, value)
    with domain_errors():
        if isinstance(request, pb.ImportOptions):
            return await stub.ImportModel(_parts(request, chunk), timeout=20)
        return await getattr(stub, name)(request, timeout=20)


def _parts(options: pb.ImportOptions, chunk: bytes) -> Iterator[pb.ImportModelRequest]:
    yield pb.ImportModelRequest(options=options)
    yield pb.ImportModelRequest(chunk=chunk)


async def connect(channel: grpc.aio.Channel) -> TrainerServiceStub:
    stub = TrainerServiceStub(channel)
    await stub.GetRollout(pb.GetRolloutRequest(), timeout=20, wait_for_ready=True)
    return stub


def grown(before: State, case: Case) -> State:
    return State(
        before.jobs + case.jobs,
        before.job_events + case.job_events,
        before.serving_history + case.generations,
        "v1" if isinstance(case.request, pb.ShadowModelRequest) else before.shadow,
    )


def made(answer: Any) -> object:
    """Return what the answer names: a job, a generation, or the shadow candidate."""
    if hasattr(answer, "job"):
        return answer.job.job_id
    return getattr(answer, "serving_generation", None) or answer.model_version


@pytest.mark.parametrize("name", CASES)
async def test_a_repetition_after_a_lost_answer_has_no_effect(world: World, name: str) -> None:
    before = await world.state()
    async with grpc.aio.insecure_channel(world.link.address) as channel:
        stub = await connect(channel)
        world.link.cut_next_answer()
        with pytest.raises(Unavailable):
            await call(world, stub, name)
        assert world.link.cuts == 1
        assert await world.state() == grown(before, CASES[name])
        first_job = world.job_id if name == "CancelJob" else await world.newest_job()
        # Decisions made in between remain.
        await _promote(world.trainer, "v3")
        await world.trainer.shadow("v2", requested_by="bob")
        after = await world.state()
        answer = await call(world, stub, name)
    assert await world.state() == after
    expected = {"PromoteModel": 3, "Rollback": 3, "SetOperatingPoint": 3, "ShadowModel": "v1"}
    assert made(answer) == expected.get(name, first_job)


@pytest.mark.parametrize("name", CASES)
async def test_a_channel_of_ours_repeats_a_call_whose_answer_is_lost(
    world: World, name: str
) -> None:
    before = await world.state()
    async with open_channel(world.link.address) as channel:
        stub = await connect(channel)
        world.link.cut_next_answer()
        await call(world, stub, name)
    assert world.link.cuts == 1
    assert await world.state() == grown(before, CASES[name])


@pytest.mark.parametrize("name", CASES)
async def test_calls_made_at_once_with_one_key_have_one_effect(world: World, name: str) -> None:
    before = await world.state()
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        answers = await asyncio.gather(*[call(world, stub, name) for _ in range(4)])
    assert len({made(answer) for answer in answers}) == 1
    assert await world.state() == grown(before, CASES[name])


@pytest.mark.parametrize("name", CASES)
async def test_a_key_is_not_used_for_anything_else(world: World, name: str) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        await call(world, stub, name)
        after = await world.state()
        with pytest.raises(AlreadyExists, match=KEY):
            await call(world, stub, name, **CASES[name].other)
        another = "Rollback" if name != "Rollback" else "QuantizeModel"
        with pytest.raises(AlreadyExists, match=KEY):
            await call(world, stub, another)
        assert await world.state() == after


async def test_the_file_of_an_import_belongs_to_its_content(world: World) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        await call(world, stub, "ImportModel")
        with pytest.raises(AlreadyExists, match=KEY):
            await call(world, stub, "ImportModel", chunk=b"another network")


async def test_a_file_that_is_imported_again_is_the_same_version(world: World) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        first = made(await call(world, stub, "ImportModel"))
        again = await call(world, stub, "ImportModel", idempotency_key="new", file_name="b.pth")
        assert made(again) == first
        other = await call(world, stub, "ImportModel", idempotency_key="newer", threshold=0.7)
        assert made(other) != first
        another = await call(world, stub, "ImportModel", idempotency_key="last", chunk=b"different")
        assert made(another) not in (first, made(other))


async def test_the_command_line_uploads_again_what_grpc_does_not_buffer(
    world: World, tmp_path: Path
) -> None:
    file = tmp_path / "network.pth"
    file.write_bytes(bytes(2**20))
    options = pb.ImportOptions(requested_by="ada", idempotency_key=KEY)

    def upload() -> pb.Job:
        with open_sync_channel(world.link.address) as channel:
            stub = TrainerServiceStub(channel)
            stub.GetRollout(pb.GetRolloutRequest(), timeout=20, wait_for_ready=True)
            world.link.cut_next_answer()
            return upload_checkpoint(stub, file, options)

    before = await world.state()
    made_job = await asyncio.to_thread(upload)
    assert world.link.cuts == 1
    assert await world.state() == grown(before, CASES["ImportModel"])
    assert made_job.job_id == await world.newest_job()


async def test_a_key_belongs_to_who_asks(world: World) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        mine = await call(world, stub, "StartTraining")
        others = await call(world, stub, "StartTraining", requested_by="bob")
    assert mine.job.job_id != others.job.job_id


async def test_a_key_whose_call_was_refused_may_be_used_again(world: World) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        with pytest.raises(Conflict, match="generation 2 serves"):
            await call(world, stub, "Rollback", expected_generation=1)
        assert (await call(world, stub, "Rollback", expected_generation=2)).serving_generation == 3


@pytest.mark.parametrize("name", CASES)
async def test_a_call_without_a_key_is_not_carried_out_twice_by_a_channel(
    world: World, name: str
) -> None:
    before = await world.state()
    async with open_channel(world.link.address) as channel:
        stub = await connect(channel)
        world.link.cut_next_answer()
        with pytest.raises(PreconditionFailed, match="idempotency_key"):
            await call(world, stub, name, idempotency_key="")
    assert await world.state() == grown(before, CASES[name])


async def test_calls_without_a_key_are_each_a_call_of_its_own(world: World) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        answers = [await call(world, stub, "StartTraining", idempotency_key="") for _ in range(2)]
    assert len({answer.job.job_id for answer in answers}) == 2


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("StartTraining", "parent_version"),
        ("EvaluateModel", "model_version"),
        ("QuantizeModel", "model_version"),
    ],
)
async def test_a_version_that_is_not_named_is_chosen_when_the_work_begins(
    world: World, name: str, field: str
) -> None:
    async with open_channel(world.address) as channel:
        stub = await connect(channel)
        answer = await call(world, stub, name)
    job = await world.trainer.jobs.get(UUID(answer.job.job_id))
    assert job.spec[field] is None
    assert job.base_version is None
    leases = JobLeases(world.pool)
    await _promote(world.trainer, "v3")
    claims = [await leases.claim(), await leases.claim()]
    assert [claim.job.base_version for claim in claims if claim] == ["v3", "v3"]


def test_every_method_with_a_key_is_covered() -> None:
    service = pb.DESCRIPTOR.services_by_name["TrainerService"]
    assert set(CASES) == keyed_methods(service)
