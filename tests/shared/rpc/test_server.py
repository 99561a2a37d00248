import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from shared.errors import PreconditionFailed
from shared.rpc.channel import open_channel
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import Build, running_server
from shared.settings import ClientSettings
from tests.shared.rpc.echo import LOCAL, SERVICE, EchoProcess, call, echo
from tests.support.certificates import Authority, Files
from tests.support.processes import free_port

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# A stop that is delayed takes the whole grace period, longer than on any busy machine.
PATIENT = LOCAL.model_copy(update={"stop_grace_s": 60.0})


async def _repeat(request: bytes) -> bytes:
    return request


async def _health(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)).status


@pytest.mark.parametrize("name", ["", SERVICE])
async def test_health_is_not_serving_until_the_service_is_ready(name: str) -> None:
    lifecycles: list[Lifecycle] = []

    @asynccontextmanager
    async def build(_: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        lifecycles.append(lifecycle)
        yield

    async with running_server(LOCAL, SERVICE, build) as address:
        assert await _health(address, name) == NOT_SERVING
        await lifecycles[0].set_ready(True)
        assert await _health(address, name) == SERVING
        await lifecycles[0].set_ready(False)
        assert await _health(address, name) == NOT_SERVING


REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


async def _reflected(channel: grpc.aio.Channel, service: str, **request: str) -> Any:
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = reflection_pb2.ServerReflectionRequest(**request)
    (answer,) = [answer async for answer in call(iter([asked]), timeout=20)]
    return answer


@pytest.mark.parametrize("service", REFLECTION)
async def test_reflection_describes_the_services(service: str) -> None:
    name = "magface.v1.FeedbackService"
    async with (
        running_server(LOCAL, name, echo(_repeat)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        listed = await _reflected(channel, service, list_services="")
        names = {one.name for one in listed.list_services_response.service}
        assert {name, "grpc.health.v1.Health", *REFLECTION} == names
        described = await _reflected(channel, service, file_containing_symbol=name)
        assert any(
            b"SubmitFeedback" in file
            for file in described.file_descriptor_response.file_descriptor_proto
        )


@pytest.mark.parametrize("service", REFLECTION)
async def test_reflection_can_be_turned_off(service: str) -> None:
    silent = LOCAL.model_copy(update={"reflection": False})
    async with (
        running_server(silent, SERVICE, echo(_repeat)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await _reflected(channel, service, list_services="")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_what_a_server_cannot_have_is_named_by_its_setting(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "endpoint"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for setting, value, name in (
            ("metrics_port", port, "MAGFACE_METRICS_PORT"),
            ("endpoint_file", missing, "MAGFACE_ENDPOINT_FILE"),
            ("listen", f"127.0.0.1:{port}", "MAGFACE_LISTEN"),
        ):
            settings = LOCAL.model_copy(update={setting: value})
            with pytest.raises(PreconditionFailed, match=name):
                async with running_server(settings, SERVICE, echo(_repeat)):
                    pass


async def test_endpoint_file_is_there_while_the_server_listens(tmp_path: Path) -> None:
    path = tmp_path / "endpoint"
    settings = LOCAL.model_copy(update={"endpoint_file": path})
    async with running_server(settings, SERVICE, echo(_repeat)) as address:
        assert path.read_text() == address
        assert await _health(address) == SERVING
    assert _is_empty(tmp_path)


async def test_port_that_is_taken_is_an_error() -> None:
    async with running_server(LOCAL, SERVICE, echo(_repeat)) as address:
        taken = LOCAL.model_copy(update={"listen": address})
        with pytest.raises(PreconditionFailed, match=f"{address}.*MAGFACE_LISTEN"):
            async with running_server(taken, SERVICE, echo(_repeat)):
                pass


async def test_program_that_cannot_start_says_why_and_no_more(tmp_path: Path) -> None:
    async with running_server(LOCAL, SERVICE, echo(_repeat)) as address:
        with EchoProcess(tmp_path / "server", listen=address) as process:
            process.launch()
            assert await asyncio.to_thread(process.wait) == 1
    last = process.log.splitlines()[-1]
    assert last.startswith(f"{SERVICE} cannot run: cannot listen on {address}")
    assert "Traceback" not in process.log


async def test_service_that_cannot_be_built_does_not_listen(tmp_path: Path) -> None:
    @asynccontextmanager
    async def build(_: grpc.aio.Server, __: Lifecycle) -> AsyncIterator[None]:
        raise PreconditionFailed("no model")
        yield

    settings = LOCAL.model_copy(update={"endpoint_file": tmp_path / "endpoint"})
    with pytest.raises(PreconditionFailed, match="no model"):
        async with running_server(settings, SERVICE, build):
            pass
    assert _is_empty(tmp_path)


async def test_call_in_flight_ends_before_the_service_is_closed() -> None:
    started, closed = asyncio.Event(), asyncio.Event()

    async def act(request: bytes) -> bytes:
        started.set()
        await asyncio.sleep(0.7)
        assert not closed.is_set()
        return request

    async with asyncio.TaskGroup() as group:
        async with running_server(LOCAL, SERVICE, echo(act, closed=closed.set)) as address:
            channel = open_channel(address)
            answer = group.create_task(call(channel, "unary_unary", b"x"))
            await started.wait()
        assert closed.is_set()
        assert await answer == [b"x"]
        await channel.close()


async def test_endless_call_is_ended_when_the_grace_is_over() -> None:
    started = asyncio.Event()

    async def act(request: bytes) -> bytes:
        started.set()
        await asyncio.sleep(60)
        return request

    settings = LOCAL.model_copy(update={"stop_grace_s": 0.5})
    async with running_server(settings, SERVICE, echo(act)) as address:
        channel = open_channel(address)
        answer = asyncio.create_task(call(channel, "unary_unary", b"x"))
        await started.wait()
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 30, "the call would have taken 60 s"
    with pytest.raises(grpc.aio.AioRpcError):
        await answer
    await channel.close()


async def test_stream_that_watches_for_the_stop_ends_by_itself() -> None:
    async def watch(_: bytes, __: object) -> AsyncIterator[bytes]:
        yield b"watching"
        await lifecycles[0].stopping.wait()
        yield b"bye"

    lifecycles: list[Lifecycle] = []
    async with running_server(PATIENT, SERVICE, _streaming(watch, lifecycles)) as address:
        channel = open_channel(address)
        stream = channel.unary_stream(f"/{SERVICE}/watch")(b"")
        assert await stream.read() == b"watching"
        stopping = time.monotonic()
    assert time.monotonic() - stopping < PATIENT.stop_grace_s / 2
    assert await stream.read() == b"bye"
    assert await stream.read() is grpc.aio.EOF
    await channel.close()


def _streaming(watch: object, lifecycles: list[Lifecycle]) -> Build:
    @asynccontextmanager
    async def build(server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        lifecycles.append(lifecycle)
        method = grpc.unary_stream_rpc_method_handler(watch)  # type: ignore[arg-type]
        handlers = grpc.method_handlers_generic_handler(SERVICE, {"watch": method})
        server.add_generic_rpc_handlers([handlers])
        await lifecycle.set_ready(True)
        yield

    return build


async def test_clients_that_watch_health_hear_of_the_stop_and_do_not_hold_it_up() -> None:
    async with running_server(PATIENT, SERVICE, echo(_repeat)) as address:
        channel = grpc.aio.insecure_channel(address)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stopping = time.monotonic()
    assert time.monotonic() - stopping < PATIENT.stop_grace_s / 2
    assert (await watch.read()).status == NOT_SERVING
    await channel.close()


class _Load:
    """Sixteen clients that call without a pause; records the end of each call by its name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.ended: dict[str, grpc.StatusCode] = {}
        self._channel = channel

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for caller in range(16):
                group.create_task(self._call_until(done, caller))
            yield
            done.set()

    async def _call_until(self, done: asyncio.Event, caller: int) -> None:
        number = 0
        while not done.is_set():
            name, number = f"{caller}-{number}", number + 1
            try:
                await call(self._channel, "unary_unary", name.encode())
                self.ended[name] = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                self.ended[name] = error.code()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_no_accepted_call_fails_when_the_server_is_asked_to_end_under_load(
    tmp_path: Path, number: signal.Signals
) -> None:
    with EchoProcess(tmp_path / "server") as process:
        async with open_channel(await asyncio.to_thread(process.start)) as channel:
            load = _Load(channel)
            async with load.running():
                await process.accepts(50)
                process.send_signal(number)
                assert await asyncio.to_thread(process.wait) == 0
    accepted = process.accepted()
    assert len(accepted) > 20
    assert {load.ended[name] for name in accepted} == {grpc.StatusCode.OK}
    assert set(load.ended.values()) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize("secure", [False, True])
async def test_no_call_at_all_fails_while_replicas_restart_one_after_the_other(
    tmp_path: Path, secure: bool
) -> None:
    """With mutual TLS the certificates are replaced meanwhile, too."""
    authority = Authority()
    files, client = Files(tmp_path / "service", authority), Files(tmp_path / "client", authority)
    paths = {**files.own(), "tls_client_ca": files.ca} if secure else {}
    settings = {f"MAGFACE_{name.upper()}": str(path) for name, path in paths.items()}
    access = ClientSettings.model_validate({**client.own(), **client.trusting()})
    async with AsyncExitStack() as stack:
        addresses, processes = [], []
        for place in range(2):
            listen = f"127.0.0.1:{free_port()}"
            process = EchoProcess(tmp_path / str(place), listen=listen, **settings)
            processes.append(stack.enter_context(process))
            addresses.append(await asyncio.to_thread(process.start))
        target = "ipv4:" + ",".join(addresses)
        channel = open_channel(target, access if secure else None)
        await stack.enter_async_context(channel)
        load = _Load(channel)
        async with load.running():
            for process in processes:
                await process.accepts()
                files.replace(authority.issue())
                assert await asyncio.to_thread(process.stop) == 0
                await asyncio.to_thread(process.start)
                await process.accepts()
    assert len(load.ended) > 50
    assert set(load.ended.values()) == {grpc.StatusCode.OK}


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())
