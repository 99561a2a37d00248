"""Start and graceful shutdown of a gRPC server."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import uvloop
from grpc_health.v1 import health_pb2_grpc
from prometheus_client import start_http_server

from shared.errors import MagFaceError, PreconditionFailed, with_details
from shared.files import PRIVATE, write_atomically
from shared.heap import limit_heaps
from shared.rpc.access.bind_rule import check_listen_address, log_openness
from shared.rpc.access.certificates import server_credentials
from shared.rpc.access.key_sources import KeySource, key_source
from shared.rpc.access.rate_limits import RateLimits
from shared.rpc.access.tokens import TokenVerifier
from shared.rpc.budget import ByteBudget
from shared.rpc.reflection import add_reflection
from shared.rpc.server.access_guard import access_guard
from shared.rpc.server.connections import allow_many_connections, received_bytes
from shared.rpc.server.error_status import error_status
from shared.rpc.server.interceptors import GuardFactory, GuardInterceptor
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.metrics import call_metrics
from shared.rpc.server.uploads import Uploads
from shared.rpc.server.watchdog import end_within, watch_loop
from shared.runtime import end_task, start_log
from shared.settings import ServerSettings

logger = logging.getLogger(__name__)

Build: TypeAlias = Callable[[grpc.aio.Server, Lifecycle], AbstractAsyncContextManager[None]]

# Time for clients that watch the health of this server to send their next call to another.
_DRAIN_S = 0.2
# Time to close what the service uses after its calls have ended.
_CLOSE_S = 3.0
# For TLS, and for the first frames of HTTP/2.
_HANDSHAKE_MS = 20_000
# A request of a stream is in memory twice: as a message, and as the bytes of its pictures.
_COPIES_OF_STREAMED = 2
# The part of the upload bytes that the requests of streams may take, both copies together a half.
_STREAM_SHARE = 2 * _COPIES_OF_STREAMED


def run_server(settings: ServerSettings, service_name: str, build: Build) -> None:
    """Serve until SIGTERM or SIGINT, then let the calls in flight finish and return.

    The process ends three seconds after the grace period at the latest, and when the event loop is
    stuck for a minute, whatever threads or children are stuck.

    Args:
        settings: Address, limits and grace period.
        service_name: Full proto name, e.g. ``magface.v1.FeedbackService``.
        build: Async context manager that adds the servicer to the server, opens its
            dependencies, and closes them after the last call. It calls ``set_ready(True)`` of
            the lifecycle when calls can be served, which may be later.

    Raises:
        SystemExit: If the service cannot start; its message says why.
    """
    start_log(settings.log_level, "%(asctime)s %(levelname)s %(name)s %(message)s")
    limit_heaps()
    allow_many_connections()
    # Copies of networks and pictures are for the user of the service alone.
    os.umask(PRIVATE)
    # A call takes a tenth less processor time than with the event loop of asyncio.
    try:
        uvloop.run(_serve_until_signal(settings, service_name, build))
    except MagFaceError as error:
        raise SystemExit(f"{service_name} cannot run: {with_details(error)}") from None
    except BaseExceptionGroup as group:
        # A task group raises what its tasks have raised as a group, of groups at times.
        if (known := group.subgroup(MagFaceError)) is None:
            raise
        raise SystemExit(f"{service_name} cannot run: {with_details(_first(known))}") from None


def _first(group: BaseExceptionGroup[MagFaceError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _serve_until_signal(settings: ServerSettings, service_name: str, build: Build) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watch = asyncio.create_task(watch_loop())
    async with running_server(settings, service_name, build) as address:
        logger.info("%s listens on %s", service_name, address)
        await stop.wait()
        logger.info("%s received a signal and stops", service_name)
        await end_task(watch)
        end_within(_DRAIN_S + settings.stop_grace_s + _CLOSE_S)


@asynccontextmanager
async def running_server(
    settings: ServerSettings, service_name: str, build: Build
) -> AsyncIterator[str]:
    """Serve inside the block as `run_server` does, without signals; yields ``host:port``.

    Raises:
        PreconditionFailed: If the address or the port of the metrics cannot be bound, the
            endpoint file cannot be written, the files of certificates and keys cannot be used, or
            others would reach the server without TLS and tokens.
    """
    check_listen_address(settings)
    lifecycle = Lifecycle(service_name, ByteBudget(settings.upload_bytes // _STREAM_SHARE))
    await lifecycle.set_ready(False)
    uploads = _make_uploads(settings, lifecycle.stream_budget)
    keys = key_source(settings)
    server = _make_server(settings, uploads, keys)
    async with build(server, lifecycle):
        health_pb2_grpc.add_HealthServicer_to_server(lifecycle.health, server)
        if settings.reflection:
            add_reflection(service_name, server)
        host = settings.listen.rpartition(":")[0]
        port = _bind(server, settings)
        address = f"{host}:{port}"
        await server.start()
        log_openness(settings)
        watch = asyncio.create_task(uploads.watch(partial(received_bytes, port)))
        follow = asyncio.create_task(keys.follow()) if keys else None
        try:
            with _metrics_page(host, settings.metrics_port):
                with _endpoint_file(settings.endpoint_file, address):
                    yield address
                await lifecycle.begin_stop()
                await asyncio.sleep(min(_DRAIN_S, settings.stop_grace_s))
        finally:
            lifecycle.end_streams()
            await server.stop(settings.stop_grace_s)
            await end_task(watch)
            if follow is not None:
                await end_task(follow)


def _make_uploads(settings: ServerSettings, streams: ByteBudget) -> Uploads:
    return Uploads(
        settings.upload_bytes,
        settings.upload_timeout_s,
        settings.max_message_bytes,
        lambda: _COPIES_OF_STREAMED * streams.used,
        tls=settings.tls_certificate is not None,
        tokens=settings.jwks is not None,
    )


def _make_server(
    settings: ServerSettings, uploads: Uploads, keys: KeySource | None
) -> grpc.aio.Server:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # With SO_REUSEPORT a second server could bind the same port without an error.
        ("grpc.so_reuseport", 0),
        # Load balancers and clients keep idle connections alive with pings, as a rule every 10 s.
        # A client that sends ten pings less than a second apart is sent away.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.max_ping_strikes", 10),
        # Idle connections take memory and descriptors. A client connects again with its next call.
        ("grpc.max_connection_idle_ms", int(settings.idle_connection_s * 1000)),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # The server takes 64 KiB of a message before it asks for the message. Otherwise gRPC lets
        # each call send 4 MiB.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_concurrent_streams", 1000),
        ("grpc.experimental.tcp_max_read_chunk_size", 2**16),
        # A compressed message of 64 KiB can become one of 64 MiB. Pictures do not get smaller.
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]
    guards: list[GuardFactory] = [error_status, call_metrics]
    if keys is not None:
        guards.insert(0, access_guard(TokenVerifier(settings, keys), RateLimits(settings)))
    return grpc.aio.server(interceptors=[GuardInterceptor(uploads.read, *guards)], options=options)


def _bind(server: grpc.aio.Server, settings: ServerSettings) -> int:
    address, credentials = settings.listen, server_credentials(settings)
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PreconditionFailed(
            f"cannot listen on {address}: set MAGFACE_LISTEN to a free port of this machine"
        ) from error


@contextmanager
def _metrics_page(host: str, port: int) -> Iterator[None]:
    if port == 0:
        yield
        return
    try:
        page, thread = start_http_server(port, addr=host.strip("[]"))
    except OSError as error:
        raise PreconditionFailed(
            f"MAGFACE_METRICS_PORT: cannot listen on port {port} ({error.strerror}); name a free"
            " one, or 0 for no metrics"
        ) from error
    try:
        yield
    finally:
        page.shutdown()
        page.server_close()
        thread.join()


@contextmanager
def _endpoint_file(path: Path | None, address: str) -> Iterator[None]:
    if path is None:
        yield
        return
    try:
        write_atomically(path, address)
    except OSError as error:
        raise PreconditionFailed(
            f"MAGFACE_ENDPOINT_FILE: {path} cannot be written ({error.strerror})"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
