"""The asyncio client."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from magface_client import calls, methods
from magface_client.access import Access
from magface_client.calls import Call, Listing, StrategyName
from magface_client.channels import ChannelSet, Options, pause_before_retry
from magface_client.client import DEFAULT_TIMEOUT_S, checked_timeout
from magface_client.errors import ServiceError, UnavailableError, from_rpc_error
from magface_client.pictures import ImageInput, Labelled, Side, pack_image
from magface_client.results import (
    AuditRecord,
    EvaluationRecord,
    Face,
    FacesInImage,
    JobRecord,
    LabelName,
    LeftOutRecord,
    OperatingPointRecord,
    PairRecord,
    PairsToLabel,
    PromotionRecord,
    Receipt,
    ServingInfo,
    StoredPicture,
    Streamed,
    SuspectRecord,
    Verification,
    VersionRecord,
)
from magface_client.streams import StreamWindow
from magface_client.stubs import embedder_pb2

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")
_Key = TypeVar("_Key")


class AsyncClient:
    """`Client` for asyncio, with the same arguments, results and errors.

    It belongs to one event loop. Files are read in other threads. Use it as a context manager, or
    call `close`.
    """

    def __init__(
        self,
        *,
        embedder: str | None = None,
        feedback: str | None = None,
        trainer: str | None = None,
        access: Access | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._timeout_s = checked_timeout(timeout_s)
        self._closing: set[asyncio.Task[None]] = set()
        self._channels: ChannelSet[grpc.aio.Channel] = ChannelSet(
            {"embedder": embedder, "feedback": feedback, "trainer": trainer},
            access,
            _open,
            self._retire,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls that run end with an error."""
        for closing in list(self._closing):
            closing.cancel()
        for channel in self._channels.close():
            await channel.close()

    async def verify(
        self,
        a: Side,
        b: Side,
        *,
        minimum_quality: float | None = None,
        model_version: str = "",
        timeout_s: float | None = None,
    ) -> Verification:
        """See `Client.verify`."""
        call = await asyncio.to_thread(calls.verify, a, b, minimum_quality, model_version)
        return await self._run(call, timeout_s)

    async def embed(
        self, image: ImageInput, *, model_version: str = "", timeout_s: float | None = None
    ) -> Face:
        """See `Client.embed`."""
        faces = await self.embed_many([image], model_version=model_version, timeout_s=timeout_s)
        return faces[0]

    async def embed_many(
        self,
        images: Sequence[ImageInput],
        *,
        model_version: str = "",
        timeout_s: float | None = None,
    ) -> list[Face]:
        """See `Client.embed_many`."""
        call = await asyncio.to_thread(calls.embed, images, model_version)
        return await self._run(call, timeout_s)

    async def embed_stream(
        self,
        images: Iterable[tuple[_Key, ImageInput]] | AsyncIterable[tuple[_Key, ImageInput]],
        *,
        model_version: str = "",
    ) -> AsyncIterator[Streamed[_Key]]:
        """See `Client.embed_stream`; `images` may be an asynchronous iterable."""
        source = aiter(images) if isinstance(images, AsyncIterable) else _items(images)
        window: StreamWindow[_Key] = StreamWindow(model_version)
        more, retries = True, 0
        while more or window.unanswered:
            requests: asyncio.Queue[embedder_pb2.EmbedStreamRequest | None] = asyncio.Queue()
            for unanswered in window.unanswered:
                requests.put_nowait(unanswered)
            stream = self._open_stream(_until_none(requests))
            try:
                while True:
                    while more and window.has_room:
                        item = await anext(source, None)
                        more = item is not None
                        if item is not None:
                            try:
                                image = await asyncio.to_thread(pack_image, item[1])
                            except OSError as error:
                                yield Streamed(item[0], None, error)
                            else:
                                requests.put_nowait(window.add(item[0], image))
                    if not window.unanswered:
                        break
                    try:
                        response = await self._receive(stream)
                    except ServiceError as error:
                        pause = pause_before_retry(error, retries, self._timeout_s)
                        if pause is None:
                            raise
                        retries += 1
                        await asyncio.sleep(pause)
                        break
                    retries = 0
                    yield window.settle(response)
            finally:
                requests.put_nowait(None)
                stream.cancel()

    async def detect_faces(
        self, image: ImageInput, *, timeout_s: float | None = None
    ) -> FacesInImage:
        """See `Client.detect_faces`."""
        call = await asyncio.to_thread(calls.detect_faces, image)
        return await self._run(call, timeout_s)

    async def model(self, *, timeout_s: float | None = None) -> ServingInfo:
        """See `Client.model`."""
        return await self._run(calls.model(), timeout_s)

    async def feedback(
        self,
        a: Labelled,
        b: Labelled,
        label: LabelName,
        *,
        annotator: str = "",
        identity_a: str = "",
        identity_b: str = "",
        sureness: float | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """See `Client.feedback`."""
        call = await asyncio.to_thread(
            calls.feedback,
            a,
            b,
            label,
            annotator=annotator,
            identity_a=identity_a,
            identity_b=identity_b,
            sureness=sureness,
            idempotency_key=idempotency_key,
        )
        return await self._run(call, timeout_s)

    async def contest(
        self,
        verification: Verification,
        label: LabelName | None = None,
        *,
        annotator: str = "",
        sureness: float | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """See `Client.contest`."""
        call = calls.contest(verification, label, annotator=annotator, sureness=sureness)
        return await self._run(call, timeout_s)

    async def next_pairs(
        self,
        annotator: str = "",
        *,
        count: int = 10,
        strategy: StrategyName = "mix",
        timeout_s: float | None = None,
    ) -> PairsToLabel:
        """See `Client.next_pairs`."""
        return await self._run(calls.next_pairs(annotator, count, strategy), timeout_s)

    async def image(self, sha256: str, *, timeout_s: float | None = None) -> StoredPicture:
        """See `Client.image`."""
        return await self._run(calls.image(sha256), timeout_s)

    def pairs(self, consensus: LabelName | None = None) -> AsyncIterator[PairRecord]:
        """See `Client.pairs`."""
        return self._pages(calls.pairs(consensus))

    def audit(self) -> AsyncIterator[AuditRecord]:
        """See `Client.audit`."""
        return self._pages(calls.audit())

    def jobs(self) -> AsyncIterator[JobRecord]:
        """See `Client.jobs`."""
        return self._pages(calls.jobs())

    def models(self) -> AsyncIterator[VersionRecord]:
        """See `Client.models`."""
        return self._pages(calls.models())

    def promotions(self) -> AsyncIterator[PromotionRecord]:
        """See `Client.promotions`."""
        return self._pages(calls.promotions())

    def operating_points(self) -> AsyncIterator[OperatingPointRecord]:
        """See `Client.operating_points`."""
        return self._pages(calls.operating_points())

    def evaluations(self, model_version: str = "") -> AsyncIterator[EvaluationRecord]:
        """See `Client.evaluations`."""
        return self._pages(calls.evaluations(model_version))

    def suspects(self, job_id: str = "") -> AsyncIterator[SuspectRecord]:
        """See `Client.suspects`."""
        return self._pages(calls.suspects(job_id))

    def left_out(self, job_id: str) -> AsyncIterator[LeftOutRecord]:
        """See `Client.left_out`."""
        return self._pages(calls.left_out(job_id))

    async def _run(
        self, call: Call[_Request, _Response, _Result], timeout_s: float | None
    ) -> _Result:
        timeout = self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        deadline = time.monotonic() + timeout
        retries = 0
        while True:
            remaining = deadline - time.monotonic()
            try:
                return call.read(await self._attempt(call, remaining))
            except ServiceError as error:
                remaining = deadline - time.monotonic()
                pause = pause_before_retry(error, retries, remaining)
                if pause is None or not call.method.may_be_repeated(call.request):
                    raise
            retries += 1
            await asyncio.sleep(pause)

    async def _attempt(self, call: Call[_Request, _Response, Any], timeout_s: float) -> _Response:
        method = call.method
        channel, metadata = self._channels.current(method.service)
        stub = channel.unary_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        try:
            response: _Response = await stub(call.request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._channels.name(method.service)) from error
        return response

    def _open_stream(self, requests: AsyncIterator[embedder_pb2.EmbedStreamRequest]) -> Any:
        method = methods.EMBED_STREAM
        channel, metadata = self._channels.current(method.service)
        return channel.stream_stream(
            method.path, method.request.SerializeToString, method.response.FromString
        )(requests, metadata=metadata)

    async def _receive(self, stream: Any) -> embedder_pb2.EmbedStreamResponse:
        name = self._channels.name(methods.EMBED_STREAM.service)
        try:
            response = await stream.read()
        except grpc.RpcError as error:
            raise from_rpc_error(error, name) from error
        if not isinstance(response, embedder_pb2.EmbedStreamResponse):
            raise UnavailableError("the stream ended early", "UNAVAILABLE", name)
        return response

    async def _pages(
        self, listing: Listing[_Request, _Response, _Result]
    ) -> AsyncIterator[_Result]:
        request: _Request | None = listing.request
        while request is not None:
            items, request = await self._run(listing.page(request), None)
            for item in items:
                yield item

    def _retire(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.get_running_loop().create_task(channel.close(self._timeout_s))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _open(
    address: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, credentials, options)


async def _items(
    images: Iterable[tuple[_Key, ImageInput]],
) -> AsyncIterator[tuple[_Key, ImageInput]]:
    for one in images:
        yield one


async def _until_none(
    requests: asyncio.Queue[embedder_pb2.EmbedStreamRequest | None],
) -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
    while (request := await requests.get()) is not None:
        yield request
