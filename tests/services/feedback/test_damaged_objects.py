"""Objects that something else acknowledged, that were lost, or that were damaged."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore, image_key
from tests.services.feedback.support.helpers import (
    Stored,
    marked,
    picture,
    request,
    settings_for,
    sha256,
    stub_on,
)
from tests.support.lying_store import Lie, LyingStore, bare, cut, lying_store, nothing, page
from tests.support.waiting import until

Stub = feedback_pb2_grpc.FeedbackServiceStub


async def _pool(*numbers: int) -> AsyncIterator[pb.ImportImagesRequest]:
    for number in numbers:
        yield pb.ImportImagesRequest(image=marked(picture(number)))


async def _bytes_of(stub: Stub, number: int) -> bytes:
    return (await stub.GetImage(pb.GetImageRequest(sha256=sha256(number)))).image.data


def _same_size(number: int) -> bytes:
    return bytes(len(picture(number)))


@pytest.mark.parametrize("how", ["again", "another label", "import"])
@pytest.mark.parametrize("damage", [None, b"", b"half", _same_size(1)])
async def test_bytes_sent_again_replace_a_missing_or_damaged_object(
    stub: Stub, object_store: ObjectStore, how: str, damage: bytes | None
) -> None:
    first = request(1, 2)
    answer = await stub.SubmitFeedback(first)
    key = image_key(sha256(1))
    if damage is None:
        object_store.remove(key)
    else:
        object_store.put(key, damage)
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await _bytes_of(stub, 1)
    assert lost.value.code() is grpc.StatusCode.DATA_LOSS
    if how == "again":
        assert (await stub.SubmitFeedback(first)).label_id == answer.label_id
    elif how == "import":
        assert (await stub.ImportImages(_pool(1))).known == 1
    else:
        await stub.SubmitFeedback(request(3, 1))
    assert await _bytes_of(stub, 1) == picture(1)


async def test_known_objects_that_are_intact_are_not_written_again(
    stub: Stub, object_store: ObjectStore
) -> None:
    await stub.ImportImages(_pool(1, 2))
    before = [found.modified_at for found in object_store.list("images/")]
    await asyncio.sleep(1.1)
    await stub.SubmitFeedback(request(1, 2))
    await stub.ImportImages(_pool(1, 2))
    assert [found.modified_at for found in object_store.list("images/")] == before


@pytest.fixture
async def proxy(object_store_settings: ObjectStoreSettings) -> AsyncIterator[LyingStore]:
    with lying_store(object_store_settings) as store:
        yield store


@pytest.fixture
async def through_proxy(
    proxy: LyingStore, database_url: str, object_store_settings: ObjectStoreSettings
) -> AsyncIterator[Stub]:
    """A service whose store is behind the proxy, and whose background loops run all the time."""
    settings = settings_for(
        database_url,
        object_store_settings.model_copy(update={"s3_endpoint": proxy.endpoint}),
        feedback_sweep_every_s=0.05,
        feedback_read_back_every_s=0.05,
    )
    async with stub_on(settings) as stub:
        yield stub


async def test_a_label_whose_images_are_not_in_the_store_is_not_acknowledged(
    proxy: LyingStore, through_proxy: Stub, stored: Callable[[], Stored]
) -> None:
    label = request(1, 2)
    for lie in (page(200), nothing(200), page(403), page(200, "application/xml")):
        with proxy.lying(lie), pytest.raises(grpc.aio.AioRpcError) as failed:
            await through_proxy.SubmitFeedback(label)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        with proxy.lying(lie), pytest.raises(grpc.aio.AioRpcError) as failed:
            await through_proxy.ImportImages(_pool(1, 2))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert stored().labels == 0
    await through_proxy.SubmitFeedback(label)
    assert await _bytes_of(through_proxy, 1) == picture(1)


@pytest.mark.parametrize("lie", [page(200), cut, bare, nothing(404)])
async def test_an_answer_that_is_not_s3s_is_no_lost_image(
    proxy: LyingStore, through_proxy: Stub, lie: Lie
) -> None:
    await through_proxy.SubmitFeedback(request(1, 2))
    with proxy.lying(lie):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await _bytes_of(through_proxy, 1)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await _bytes_of(through_proxy, 1) == picture(1)


async def test_images_whose_objects_are_lost_are_counted_and_logged_once(
    through_proxy: Stub, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    await through_proxy.ImportImages(_pool(*range(20)))
    object_store.remove(image_key(sha256(1)))
    object_store.put(image_key(sha256(2)), b"half")
    object_store.put(image_key(sha256(3)), _same_size(3))

    async def damaged(count: int = 3) -> bool:
        return (await through_proxy.GetStats(pb.GetStatsRequest())).damaged_images == count

    with caplog.at_level(logging.ERROR, "services.feedback.images.damaged"):
        await until(damaged)
        await asyncio.sleep(0.5)
    told = [record.getMessage() for record in caplog.records if "damaged" in record.name]
    assert sum(int(line.split()[3]) for line in told) == 3
    await through_proxy.ImportImages(_pool(1, 2))
    object_store.put(image_key(sha256(3)), picture(3))
    await until(partial(damaged, 0))
