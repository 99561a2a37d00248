"""The blocking client."""

import math
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import Message

from magface_client import calls, methods
from magface_client.access import Access
from magface_client.calls import Call, Listing, StrategyName
from magface_client.channels import ChannelSet, Options, pause_before_retry
from magface_client.errors import ServiceError, UnavailableError, from_rpc_error
from magface_client.pictures import ImageInput, Labelled, Side, pack_image
from magface_client.rebasing import EmbeddingStore, RebaseProgress, RebaseReport, rebase
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

DEFAULT_TIMEOUT_S: Final = 30.0


class Client:
    """Calls the services. May be used by any thread, and as a context manager.

    A call that ends with `UnavailableError` or `OverloadedError` is made again up to five times
    within its timeout, if the contract says that its method may be repeated.

    Args:
        embedder: ``host:port`` or any gRPC target of the embedders; by default
            ``MAGFACE_EMBEDDER_ADDRESS``, or 127.0.0.1:50051.
        feedback: The same for the feedback service; port 50052.
        trainer: The same for the trainer; port 50053.
        access: Certificates and token; by default those of the environment.
        timeout_s: Longest time of a call with all its tries, in seconds.

    Every call raises `ServiceError`, in one of its kinds, if it fails, OSError if an image file
    cannot be read, and TypeError or ValueError for an argument that is not one of its kind.

    Raises:
        ConfigurationError: If the access cannot be used.
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
        self._channels: ChannelSet[grpc.Channel] = ChannelSet(
            {"embedder": embedder, "feedback": feedback, "trainer": trainer},
            access,
            _open,
            # It is closed when the last call on it has ended.
            lambda _: None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls that run end with an error."""
        for channel in self._channels.close():
            channel.close()

    def verify(
        self,
        a: Side,
        b: Side,
        *,
        minimum_quality: float | None = None,
        model_version: str = "",
        timeout_s: float | None = None,
    ) -> Verification:
        """Decide whether two faces show the same person.

        Args:
            a: An image (path, bytes or file, or a `Picture`), or an embedding (`Face` or
                `SavedEmbedding`).
            b: The same.
            minimum_quality: 0..1: the decision is ``unsure`` if the quality of a side is below it.
            model_version: A resident version; the serving one by default.
            timeout_s: In place of the client's.
        """
        return self._run(calls.verify(a, b, minimum_quality, model_version), timeout_s)

    def embed(
        self, image: ImageInput, *, model_version: str = "", timeout_s: float | None = None
    ) -> Face:
        """Embed the face in an image."""
        return self.embed_many([image], model_version=model_version, timeout_s=timeout_s)[0]

    def embed_many(
        self,
        images: Sequence[ImageInput],
        *,
        model_version: str = "",
        timeout_s: float | None = None,
    ) -> list[Face]:
        """Embed up to 64 images with one model version; `embed_stream` takes any number."""
        return self._run(calls.embed(images, model_version), timeout_s)

    def embed_stream(
        self, images: Iterable[tuple[_Key, ImageInput]], *, model_version: str = ""
    ) -> Iterator[Streamed[_Key]]:
        """Embed any number of images.

        The next images are taken from `images` when there is room for them, in the caller's
        thread, so that it may be longer than memory. If the stream breaks, the images without an
        answer are sent again.

        Args:
            images: Each with a key of the caller's.
            model_version: A resident version. By default each image gets the version that serves
                then, which may change meanwhile.

        Yields:
            The answers, in any order. An image that is refused or cannot be read has an error, and
            the stream goes on.
        """
        source = iter(images)
        window: StreamWindow[_Key] = StreamWindow(model_version)
        more, retries = True, 0
        while more or window.unanswered:
            requests: queue.SimpleQueue[embedder_pb2.EmbedStreamRequest | None] = (
                queue.SimpleQueue()
            )
            for unanswered in window.unanswered:
                requests.put(unanswered)
            stream = self._open_stream(iter(requests.get, None))
            try:
                while True:
                    while more and window.has_room:
                        item = next(source, None)
                        more = item is not None
                        if item is not None:
                            try:
                                requests.put(window.add(item[0], pack_image(item[1])))
                            except OSError as error:
                                yield Streamed(item[0], None, error)
                    if not window.unanswered:
                        break
                    try:
                        response = self._receive(stream)
                    except ServiceError as error:
                        pause = pause_before_retry(error, retries, self._timeout_s)
                        if pause is None:
                            raise
                        retries += 1
                        time.sleep(pause)
                        break
                    retries = 0
                    yield window.settle(response)
            finally:
                requests.put(None)
                stream.cancel()

    def detect_faces(self, image: ImageInput, *, timeout_s: float | None = None) -> FacesInImage:
        """Find the faces in an image; the box of one chooses it in a `Picture`."""
        return self._run(calls.detect_faces(image), timeout_s)

    def model(self, *, timeout_s: float | None = None) -> ServingInfo:
        """Describe the model version that serves."""
        return self._run(calls.model(), timeout_s)

    def feedback(
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
        """Store the label of a pair; both are durable when the call returns.

        Args:
            a: An image, or `ByHash` of a stored one.
            b: Another one.
            label: ``same``, ``different`` or ``unsure``.
            annotator: Who gives the label; may be empty with a token, whose subject it is then.
            identity_a: Identity of the person on `a`, if known.
            identity_b: The same of `b`.
            sureness: How sure the annotator is, 0..1.
            idempotency_key: A label with the same key and content is stored once. By default each
                call has a new one, which its retries share.
            timeout_s: In place of the client's.
        """
        call = calls.feedback(
            a,
            b,
            label,
            annotator=annotator,
            identity_a=identity_a,
            identity_b=identity_b,
            sureness=sureness,
            idempotency_key=idempotency_key,
        )
        return self._run(call, timeout_s)

    def contest(
        self,
        verification: Verification,
        label: LabelName | None = None,
        *,
        annotator: str = "",
        sureness: float | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Store that a decision is wrong: its images with the other label, and the decision.

        A repeated call with the same arguments stores nothing more.

        Args:
            verification: Of two images.
            label: The label that is right; by default the opposite of the decision.
            annotator: As for `feedback`.
            sureness: As for `feedback`.
            timeout_s: In place of the client's.

        Raises:
            ValueError: If a side is a stored embedding, or the decision has no opposite.
        """
        call = calls.contest(verification, label, annotator=annotator, sureness=sureness)
        return self._run(call, timeout_s)

    def next_pairs(
        self,
        annotator: str = "",
        *,
        count: int = 10,
        strategy: StrategyName = "mix",
        timeout_s: float | None = None,
    ) -> PairsToLabel:
        """Lease the pairs that are most worth a label, 1..100."""
        return self._run(calls.next_pairs(annotator, count, strategy), timeout_s)

    def image(self, sha256: str, *, timeout_s: float | None = None) -> StoredPicture:
        """Fetch a stored image."""
        return self._run(calls.image(sha256), timeout_s)

    def pairs(self, consensus: LabelName | None = None) -> Iterator[PairRecord]:
        """List the labelled pairs, newest first. Lists fetch their pages as they are read."""
        return self._pages(calls.pairs(consensus))

    def audit(self) -> Iterator[AuditRecord]:
        """List the audit log of erasures, newest first."""
        return self._pages(calls.audit())

    def jobs(self) -> Iterator[JobRecord]:
        """List the trainer's jobs, newest first."""
        return self._pages(calls.jobs())

    def models(self) -> Iterator[VersionRecord]:
        """List the model versions, newest first."""
        return self._pages(calls.models())

    def promotions(self) -> Iterator[PromotionRecord]:
        """List the serving history, newest first: which version, who wanted it, and why."""
        return self._pages(calls.promotions())

    def operating_points(self) -> Iterator[OperatingPointRecord]:
        """List the operating points, newest first; the newest is in force."""
        return self._pages(calls.operating_points())

    def evaluations(self, model_version: str = "") -> Iterator[EvaluationRecord]:
        """List the evaluations of a version, or all, newest first."""
        return self._pages(calls.evaluations(model_version))

    def suspects(self, job_id: str = "") -> Iterator[SuspectRecord]:
        """List the labels that a training, by default the latest, suspects to be wrong."""
        return self._pages(calls.suspects(job_id))

    def left_out(self, job_id: str) -> Iterator[LeftOutRecord]:
        """List the images that a job did not use."""
        return self._pages(calls.left_out(job_id))

    def rebase(
        self,
        store: EmbeddingStore[_Key],
        *,
        progress: Callable[[RebaseProgress], None] = lambda _: None,
    ) -> RebaseReport[_Key]:
        """Embed the caller's own store again with the version that serves; see `rebase`."""
        return rebase(self, store, progress)

    def _run(self, call: Call[_Request, _Response, _Result], timeout_s: float | None) -> _Result:
        timeout = self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        deadline = time.monotonic() + timeout
        retries = 0
        while True:
            remaining = deadline - time.monotonic()
            try:
                return call.read(self._attempt(call, remaining))
            except ServiceError as error:
                remaining = deadline - time.monotonic()
                pause = pause_before_retry(error, retries, remaining)
                if pause is None or not call.method.may_be_repeated(call.request):
                    raise
            retries += 1
            time.sleep(pause)

    def _attempt(self, call: Call[_Request, _Response, Any], timeout_s: float) -> _Response:
        method = call.method
        channel, metadata = self._channels.current(method.service)
        stub = channel.unary_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        try:
            response: _Response = stub(call.request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._channels.name(method.service)) from error
        return response

    def _open_stream(self, requests: Iterator[embedder_pb2.EmbedStreamRequest]) -> Any:
        method = methods.EMBED_STREAM
        channel, metadata = self._channels.current(method.service)
        return channel.stream_stream(
            method.path, method.request.SerializeToString, method.response.FromString
        )(requests, metadata=metadata)

    def _receive(self, stream: Any) -> embedder_pb2.EmbedStreamResponse:
        name = self._channels.name(methods.EMBED_STREAM.service)
        try:
            response: embedder_pb2.EmbedStreamResponse | None = next(stream, None)
        except grpc.RpcError as error:
            raise from_rpc_error(error, name) from error
        if response is None:
            raise UnavailableError("the stream ended early", "UNAVAILABLE", name)
        return response

    def _pages(self, listing: Listing[_Request, _Response, _Result]) -> Iterator[_Result]:
        request: _Request | None = listing.request
        while request is not None:
            items, request = self._run(listing.page(request), None)
            yield from items


def checked_timeout(timeout_s: float) -> float:
    """Return a timeout in seconds.

    Raises:
        ValueError: If it is not above 0, or not finite.
    """
    if not 0 < timeout_s < math.inf:
        raise ValueError(f"timeout_s is {timeout_s}; it must be above 0 and finite")
    return timeout_s


def _open(
    address: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)
