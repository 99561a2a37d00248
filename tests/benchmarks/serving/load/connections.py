"""Ways to ask a server for the embedding of one JPEG, over gRPC and over HTTP."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

EMBEDDING_BYTES = 2048
_TIMEOUT_S = 60.0


class Target(Protocol):
    """One caller's view of a server."""

    async def embed(self, jpeg: bytes) -> bytes:
        """Give the embedding as 512 float32 numbers."""
        ...


@dataclass(frozen=True)
class Address:
    """Where a server is, and what it speaks.

    Attributes:
        kind: "grpc" for EmbedderService; "http" for a picture as the body of a POST and an
            embedding as the body of the answer; "json" where the body is JSON with the picture
            in base64; "kserve" and "triton" for the protocol they share, with its binary
            extension, each with the tensor that its Python side takes bytes in.
        host_port: ``host:port``.
        path: Of the URL.
    """

    kind: str
    host_port: str
    path: str = "/"


@asynccontextmanager
async def targets(address: Address, callers: int) -> AsyncIterator[list[Target]]:
    """Connect; gRPC's callers share a channel, HTTP's have a connection each."""
    if address.kind == "grpc":
        async with grpc.aio.insecure_channel(address.host_port) as channel:
            stub = EmbedderServiceStub(channel)
            yield [GrpcTarget(stub)] * callers
        return
    connected = [await _HttpTarget.connect(address) for _ in range(callers)]
    try:
        yield list(connected)
    finally:
        for target in connected:
            target.close()


class GrpcTarget:
    """Asks EmbedderService."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def embed(self, jpeg: bytes) -> bytes:
        answer = await self._stub.Embed(embed_request([jpeg]), timeout=_TIMEOUT_S)
        return bytes(answer.faces[0].embedding)


def embed_request(jpegs: list[bytes]) -> pb.EmbedRequest:
    return pb.EmbedRequest(images=map(aligned_image, jpegs))


def aligned_image(jpeg: bytes) -> image_pb2.Image:
    return image_pb2.Image(data=jpeg, alignment=image_pb2.ALIGNMENT_ALIGNED)


class _Http(asyncio.Protocol):
    """HTTP/1.1 with one request at a time, and as little work of ours as there can be.

    The client has a core of its own machine's two: what it takes is taken from the server.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._settle(error or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        status, length = int(head[9:12]), _content_length(bytes(head))
        if len(body) < length:
            return
        self._received.clear()
        text = bytes(body)
        self._settle(text if status == 200 else RuntimeError(f"status {status}: {text[:200]!r}"))

    def request(self, data: bytes) -> "asyncio.Future[bytes]":
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _settle(self, outcome: bytes | Exception) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(outcome, bytes):
            self._answer.set_result(outcome)
        else:
            self._answer.set_exception(outcome)


class _HttpTarget:
    def __init__(self, http: _Http, address: Address) -> None:
        self._http = http
        self._address = address

    @classmethod
    async def connect(cls, address: Address) -> "_HttpTarget":
        host, _, port = address.host_port.rpartition(":")
        loop = asyncio.get_running_loop()
        _, http = await loop.create_connection(_Http, host, int(port))
        return cls(http, address)

    async def embed(self, jpeg: bytes) -> bytes:
        async with asyncio.timeout(_TIMEOUT_S):
            body = await self._http.request(http_request(self._address, jpeg))
        # Binary outputs follow their JSON.
        return body[-EMBEDDING_BYTES:]

    def close(self) -> None:
        self._http.close()


def http_request(address: Address, jpeg: bytes) -> bytes:
    """Frame one picture as the server wants it."""
    headers, body = ["Content-Type: image/jpeg"], jpeg
    if address.kind == "json":
        headers = ["Content-Type: application/json"]
        body = b'{"image": "%s"}' % base64.b64encode(jpeg)
    if address.kind in ("kserve", "triton"):
        head, body = _tensor(address.kind, jpeg)
        headers = [
            "Content-Type: application/octet-stream",
            f"Inference-Header-Content-Length: {len(head)}",
        ]
        body = head + body
    lines = [
        f"POST {address.path} HTTP/1.1",
        f"Host: {address.host_port}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _tensor(kind: str, jpeg: bytes) -> tuple[bytes, bytes]:
    """Describe a picture as JSON, and give the bytes that follow it."""
    shape, datatype, data = [len(jpeg)], "UINT8", jpeg
    if kind == "triton":
        # A batch of one tensor of one string, which is its length and then itself.
        shape, datatype, data = [1, 1], "BYTES", len(jpeg).to_bytes(4, "little") + jpeg
    tensor = {
        "name": "image",
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(data)},
    }
    order = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return json.dumps(order).encode(), data


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise RuntimeError(f"an answer without a length: {head[:200]!r}")
