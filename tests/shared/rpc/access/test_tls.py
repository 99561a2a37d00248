import asyncio
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from shared.errors import PreconditionFailed
from shared.rpc.access.transport import RenewedChannel, channel_to_self, sync_channel
from shared.rpc.channel import open_channel, open_sync_channel
from shared.rpc.health import is_serving
from shared.rpc.server.runner import running_server
from shared.settings import ClientSettings, ServerSettings
from tests.shared.rpc.echo import KINDS, LOCAL, REPEATABLE, SERVICE, call, echo
from tests.support.certificates import Authority, Files
from tests.support.waiting import until

PRODUCT = ("services", "shared", "cli", "deploy")
ROOT = Path(__file__).parents[4]


async def _repeat(request: bytes) -> bytes:
    return request


def server_settings(files: Files, **changes: Any) -> ServerSettings:
    return LOCAL.model_copy(update={**files.own(), **changes})


def client_settings(**paths: Path) -> ClientSettings:
    return ClientSettings.model_validate(paths)


@asynccontextmanager
async def served(settings: ServerSettings) -> AsyncIterator[str]:
    async with running_server(settings, SERVICE, echo(_repeat)) as address:
        yield address


async def answers(address: str, tls: ClientSettings | None) -> bool:
    """Whether a call on a new connection is answered."""
    async with open_channel(address, tls) as channel:
        try:
            return bool(await call(channel, "unary_unary", b"hello", wait_s=5) == [b"hello"])
        except grpc.RpcError as error:
            assert error.code() in {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            }
            return False


def shown_name(address: str, own: Files | None = None) -> str:
    """Common name of the certificate that a server shows to a new connection."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as tls:
        certificate = tls.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_call_works_over_tls(tmp_path: Path, kind: str) -> None:
    files = Files(tmp_path / "service", Authority())
    trusting = client_settings(**files.trusting())
    async with (
        served(server_settings(files)) as address,
        open_channel(address, trusting) as channel,
    ):
        assert await call(channel, kind, b"a", b"b") in ([b"a,b"], [b"a", b"b"])


async def test_a_server_is_believed_only_by_those_who_know_its_authority(tmp_path: Path) -> None:
    files = Files(tmp_path / "service", Authority())
    stranger = Files(tmp_path / "stranger", Authority())
    async with served(server_settings(files)) as address:
        assert await answers(address, client_settings(**files.trusting()))
        assert not await answers(address, client_settings(**stranger.trusting()))
        assert not await answers(address, None)


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority()
    files = Files(tmp_path / "service", authority)
    files.replace(authority.issue(days=-1))
    async with served(server_settings(files)) as address:
        assert not await answers(address, client_settings(**files.trusting()))


async def test_mutual_tls_needs_a_certificate_of_the_client_authority(tmp_path: Path) -> None:
    authority = Authority()
    files, client = Files(tmp_path / "service", authority), Files(tmp_path / "client", authority)
    stranger = Files(tmp_path / "stranger", Authority())
    settings = server_settings(files, tls_client_ca=files.ca)
    async with served(settings) as address:
        assert await answers(address, client_settings(**client.own(), **client.trusting()))
        assert not await answers(address, client_settings(**client.trusting()))
        assert not await answers(address, client_settings(**stranger.own(), **client.trusting()))


async def test_two_replicas_behind_one_target_are_called_over_tls(tmp_path: Path) -> None:
    files = Files(tmp_path / "service", Authority())
    settings, trusting = server_settings(files), client_settings(**files.trusting())
    async with served(settings) as one, served(settings) as two:
        assert await answers(f"ipv4:{one},{two}", trusting)


async def test_certificates_are_replaced_under_load_without_a_failed_call(tmp_path: Path) -> None:
    """New connections see each certificate, also those made while the files do not match."""
    authority = Authority()
    files = Files(tmp_path / "service", authority)
    client = Files(tmp_path / "client", authority)
    settings = server_settings(files, tls_client_ca=files.ca)
    own = client_settings(**client.own(), **client.trusting())
    calls = 0
    stop = asyncio.Event()

    async def keep_calling(channel: grpc.aio.Channel) -> None:
        nonlocal calls
        while not stop.is_set():
            assert await call(channel, "unary_unary", b"x") == [b"x"]
            calls += 1

    async def keep_connecting() -> None:
        nonlocal calls
        while not stop.is_set():
            # Without the retries of `open_channel`.
            async with RenewedChannel(address, own) as channel:
                assert await call(channel.current(), "unary_unary", b"x") == [b"x"]
                calls += 1

    async with (
        served(settings) as address,
        open_channel(address, own) as channel,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(4):
            group.create_task(keep_calling(channel))
            group.create_task(keep_connecting())
        for number in range(5):
            certificate, key = authority.issue(f"number-{number}")
            files.certificate.write_bytes(certificate)
            before = calls
            await until(lambda before=before: calls >= before + 20)
            files.key.write_bytes(key)
            name = await asyncio.to_thread(shown_name, address, client)
            assert name == f"CN=number-{number}"
        stop.set()
    assert calls > 100


async def test_a_client_authority_is_replaced_while_the_server_runs(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    files = Files(tmp_path / "service", old)
    clients = [
        client_settings(**Files(tmp_path / name, authority).own(), **files.trusting())
        for name, authority in (("first", old), ("second", new))
    ]
    accepted = tmp_path / "clients.crt"
    accepted.write_bytes(old.pem)
    async with served(server_settings(files, tls_client_ca=accepted)) as address:
        assert [await answers(address, one) for one in clients] == [True, False]
        accepted.write_bytes(old.pem + new.pem)
        assert [await answers(address, one) for one in clients] == [True, True]
        accepted.write_bytes(new.pem)
        assert [await answers(address, one) for one in clients] == [False, True]


async def test_a_channel_between_services_follows_its_own_certificate(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    files = Files(tmp_path / "service", old)
    client = Files(tmp_path / "client", old)
    accepted = tmp_path / "clients.crt"
    accepted.write_bytes(old.pem)
    tls = client_settings(**client.own(), **files.trusting())
    held = asyncio.Event()

    async def act(request: bytes) -> bytes:
        if request == b"wait":
            await held.wait()
        return request

    settings = server_settings(files, tls_client_ca=accepted)
    async with (
        running_server(settings, SERVICE, echo(act)) as address,
        RenewedChannel(address, tls) as channel,
    ):
        first = channel.current()
        assert await call(first, "unary_unary", b"a") == [b"a"]
        waiting = asyncio.create_task(call(first, "unary_unary", b"wait"))
        client.replace(new.issue())
        accepted.write_bytes(new.pem)
        assert channel.current() is not first
        assert await call(channel.current(), "unary_unary", b"b") == [b"b"]
        held.set()
        assert await waiting == [b"wait"]


async def test_the_health_check_of_a_container_works_with_mutual_tls(tmp_path: Path) -> None:
    """Its name for itself, 127.0.0.1, need not be in its certificate."""
    authority = Authority()
    files = Files(tmp_path / "service", authority)
    tls = client_settings(**files.own())
    environment = {f"MAGFACE_{name.upper()}": str(path) for name, path in files.own().items()}
    async with served(server_settings(files, tls_client_ca=files.ca)) as address:
        connect = partial(channel_to_self, tls=tls)
        assert await asyncio.to_thread(is_serving, address, 5.0, connect)
        command = [sys.executable, "-m", "shared.rpc.health", address]
        checked = await asyncio.to_thread(subprocess.run, command, env=environment, cwd=ROOT)
        assert checked.returncode == 0
        assert not await asyncio.to_thread(is_serving, address, 1.0)


async def test_a_blocking_channel_uses_tls_too(tmp_path: Path) -> None:
    files = Files(tmp_path / "service", Authority())

    def ask(address: str) -> bytes:
        with open_sync_channel(address, client_settings(**files.trusting())) as channel:
            return bytes(channel.unary_unary(REPEATABLE)(b"hello", timeout=5))

    async with served(server_settings(files)) as address:
        assert await asyncio.to_thread(ask, address) == b"hello"
        plain = sync_channel(address, client_settings())
        assert not await asyncio.to_thread(is_serving, address, 1.0, lambda _: plain)


def _no_certificate(files: Files) -> None:
    files.certificate.write_bytes(b"nothing")


def _no_key(files: Files) -> None:
    files.key.write_bytes(files.certificate.read_bytes())


def _another_key(files: Files) -> None:
    files.key.write_bytes(Authority().issue()[1])


def _missing_key(files: Files) -> None:
    files.key.unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_no_certificate, "no valid certificate"),
        (_no_key, "not a private key"),
        (_another_key, "does not belong"),
        (_missing_key, "MAGFACE_TLS_KEY: .* cannot be read"),
    ],
)
async def test_a_server_does_not_start_with_files_that_it_cannot_use(
    tmp_path: Path, spoil: Callable[[Files], None], why: str
) -> None:
    files = Files(tmp_path / "service", Authority())
    spoil(files)
    with pytest.raises(PreconditionFailed, match=f"MAGFACE_TLS_.*{why}|{why}"):
        async with served(server_settings(files)):
            pass
    with pytest.raises(PreconditionFailed, match=why):
        open_sync_channel("127.0.0.1:9", client_settings(**files.own(), **files.trusting()))


@pytest.mark.parametrize(
    ("left_out", "why"),
    [
        ("tls_key", "must be set together"),
        ("tls_certificate", "must be set together"),
        ("both", "MAGFACE_TLS_CLIENT_CA needs"),
    ],
)
async def test_settings_that_make_no_sense_alone_are_named(
    tmp_path: Path, left_out: str, why: str
) -> None:
    files = Files(tmp_path / "service", Authority())
    names = files.own().keys() if left_out == "both" else [left_out]
    settings = server_settings(files, tls_client_ca=files.ca)
    with pytest.raises(PreconditionFailed, match=why):
        async with served(settings.model_copy(update=dict.fromkeys(names))):
            pass


def test_every_channel_of_the_product_is_opened_with_settings() -> None:
    """A channel without them would be in plain text."""
    opened = re.compile(r"\bopen_(?:sync_|renewed_)?channel\(([^()]*(?:\([^()]*\))?[^()]*)\)")
    allowed = {"shared/rpc/channel.py", "shared/rpc/access/transport.py", "shared/rpc/health.py"}
    found = 0
    for path in (path for part in PRODUCT for path in (ROOT / part).rglob("*.py")):
        text = path.read_text()
        if str(path.relative_to(ROOT)) in allowed:
            continue
        assert "insecure_channel" not in text, path
        for arguments in opened.findall(text):
            found += 1
            assert "," in arguments, f"{path}: a channel is opened without settings"
    assert found >= 6
