"""Clients that get the embedding of one JPEG from a server, over gRPC or HTTP."""

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


class EmbedClient(Protocol):
    """Client of one caller."""

    async def embed(self, jpeg: bytes) -> bytes:
        """Get the embedding as the bytes of 512 float32 numbers."""
        ...


@dataclass(frozen=True)
class Address:
    """Address and protocol of a server.

    Attributes:
        kind: The protocol. "grpc" is EmbedderService. "http" is a POST with the JPEG as the body;
            the body of the response is the embedding. "json" is the same with the JPEG in base64
            inside JSON. "kserve" and "triton" are the Open Inference Protocol with its binary
            extension; they differ in the tensor for bytes.
        host_port: ``host:port``.
        path: Path of the URL.
    """

    kind: str
    host_port: str
    path: str = "/"


@asynccontextmanager
async def connect_clients(address: Address, callers: int) -> AsyncIterator[list[EmbedClient]]:
    """Connect one client per caller. gRPC clients share a channel; HTTP clients do not."""
    if address.kind == "grpc":
        async with grpc.aio.insecure_channel(address.host_port) as channel:
            stub = EmbedderServiceStub(channel)
            yield [GrpcClient(stub)] * callers
        return
    connected = [await _HttpClient.connect(address) for _ in range(callers)]
    try:
        yield list(connected)
    finally:
        for client in connected:
            client.close()


class GrpcClient:
    """Client of EmbedderService."""

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
    """Minimal HTTP/1.1 connection with one request at a time.

    The client shares the machine with the server, so its own processor time slows the server down.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is no subclass of asyncio.Transport.
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


class _HttpClient:
    def __init__(self, http: _Http, address: Address) -> None:
        self._http = http
        self._address = address

    @classmethod
    async def connect(cls, address: Address) -> "_HttpClient":
        host, _, port = address.host_port.rpartition(":")
        loop = asyncio.get_running_loop()
        _, http = await loop.create_connection(_Http, host, int(port))
        return cls(http, address)

    async def embed(self, jpeg: bytes) -> bytes:
        async with asyncio.timeout(_TIMEOUT_S):
            body = await self._http.request(http_request(self._address, jpeg))
        # With the binary extension, the outputs follow the JSON.
        return body[-EMBEDDING_BYTES:]

    def close(self) -> None:
        self._http.close()


def http_request(address: Address, jpeg: bytes) -> bytes:
    """Build the HTTP request for one JPEG."""
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
    """Make the JSON that describes a JPEG as a tensor, and the bytes that follow the JSON."""
    shape, datatype, data = [len(jpeg)], "UINT8", jpeg
    if kind == "triton":
        # A batch of one string, encoded as its length and its bytes.
        shape, datatype, data = [1, 1], "BYTES", len(jpeg).to_bytes(4, "little") + jpeg
    tensor = {
        "name": "image",
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(data)},
    }
    request = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return json.dumps(request).encode(), data


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise RuntimeError(f"a response without Content-Length: {head[:200]!r}")
