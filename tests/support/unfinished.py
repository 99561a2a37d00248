"""A client that begins calls and does not finish their messages."""

import asyncio
import struct
from collections.abc import Iterable
from typing import Self

from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamReset, TrailersReceived

_CHUNK_BYTES = 16_384


class UnfinishedCalls:
    """One connection with calls whose messages are not complete; a context manager.

    Attributes:
        statuses: gRPC status number of each call that the server ended.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._connection = H2Connection()
        self._changed = asyncio.Event()
        self._calls: list[int] = []
        self.statuses: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._connection.initiate_connection()
        self._flush()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        self._writer.close()

    def begin(self, method: str, size: int | None = None) -> int:
        """Begin a call with a message of that size, or without one; returns its number."""
        call = self._connection.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "test"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self._connection.send_headers(call, headers)
        if size is not None:
            self._connection.send_data(call, struct.pack(">BI", 0, size))
        self._flush()
        self._calls.append(call)
        return call

    async def send(self, call: int, data: memoryview) -> None:
        """Send a part of the message, as far as the server takes it before it ends the call."""
        while data and call not in self.statuses and not self._reading.done():
            window = self._connection.local_flow_control_window(call)
            size = min(len(data), window, _CHUNK_BYTES)
            if size == 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            self._connection.send_data(call, bytes(data[:size]))
            data = data[size:]
            self._flush()
            await self._writer.drain()

    def finish(self, call: int) -> None:
        """Say that the call has no more messages, unless the server has answered it already."""
        if call in self.statuses:
            return
        self._connection.end_stream(call)
        self._flush()

    async def ended(self, calls: Iterable[int]) -> None:
        """Wait until the server has ended these calls."""
        while not set(calls) <= self.statuses.keys():
            self._changed.clear()
            await self._changed.wait()

    def _flush(self) -> None:
        self._writer.write(self._connection.data_to_send())

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65_536):
                for event in self._connection.receive_data(data):
                    self._note(event)
                self._flush()
                self._changed.set()
        finally:
            self._changed.set()

    def _note(self, event: object) -> None:
        if isinstance(event, TrailersReceived | ResponseReceived):
            status = dict(event.headers).get(b"grpc-status")
            if status is not None:
                self.statuses[event.stream_id] = int(status)
        elif isinstance(event, StreamReset):
            self.statuses.setdefault(event.stream_id, -1)
        elif isinstance(event, DataReceived):
            self._connection.acknowledge_received_data(
                event.flow_controlled_length, event.stream_id
            )
