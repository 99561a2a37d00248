"""The trainer while its stores give answers that it cannot use."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest
from magface.v1 import trainer_pb2 as pb
from magface.v1 import trainer_pb2_grpc

from services.trainer.server import SERVICE_NAME, trainer_service
from services.trainer.settings import TrainerSettings
from shared.rpc.channel import open_channel
from shared.rpc.server.runner import running_server
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.services.trainer.samples import add_sample
from tests.support.lying_store import (
    LyingStore,
    bare,
    cut,
    flipped,
    garbage,
    header,
    lying_store,
    nothing,
    page,
    shortened,
)
from tests.support.postgres import read_only

Stub = trainer_pb2_grpc.TrainerServiceStub


@pytest.fixture
async def settings(
    pool: Pool, database_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> TrainerSettings:
    await add_sample(pool, "v1")
    return TrainerSettings(
        database_url=database_url, work_dir=tmp_path / "work", **object_store_settings.model_dump()
    )


async def _connect(stack: AsyncExitStack, settings: TrainerSettings) -> Stub:
    service = partial(trainer_service, settings)
    address = await stack.enter_async_context(running_server(settings, SERVICE_NAME, service))
    return Stub(await stack.enter_async_context(open_channel(address)))


@pytest.fixture
async def lying(settings: TrainerSettings) -> AsyncIterator[LyingStore]:
    with lying_store(settings) as store:
        yield store


async def _answers(stub: Stub) -> bool:
    answer = await stub.ListModels(pb.ListModelsRequest(), wait_for_ready=True, timeout=20)
    return [model.model_version for model in answer.models] == ["v1"]


async def test_the_trainer_starts_and_goes_on_through_answers_that_are_not_s3s(
    settings: TrainerSettings, lying: LyingStore, object_store: ObjectStore
):
    chosen = random.Random(4)
    object_store.put("registry/replicas/one", b"{}")
    async with AsyncExitStack() as stack:
        with lying.lying(page(200)):
            stub = await _connect(
                stack, settings.model_copy(update={"s3_endpoint": lying.endpoint})
            )
            await asyncio.sleep(1.2)
        assert await _answers(stub)
        for lie in (
            page(200, "application/xml"),
            page(403),
            page(307, "text/html", ("Location", "/")),
            nothing(200),
            garbage,
            cut,
            shortened,
            bare,
            header("Content-Length", "many"),
            *[flipped(chosen.randrange)] * 3,
        ):
            before = lying.lies
            with lying.lying(lie):
                await asyncio.sleep(0.6)
            assert lying.lies > before
        assert await _answers(stub)


async def test_the_trainer_starts_and_goes_on_with_a_read_only_database(
    settings: TrainerSettings, database_url: str
):
    training = pb.StartTrainingRequest(
        requested_by="ada",
        idempotency_key="once",
        options=pb.TrainingOptions(parent_version="v1"),
    )
    async with AsyncExitStack() as stack:
        stub = await _connect(stack, settings)
        assert await _answers(stub)
        with read_only(database_url):
            await asyncio.sleep(1.5)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.StartTraining(training)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "read-only" in str(failed.value.details())
        await asyncio.sleep(0.5)
        assert await _answers(stub)
