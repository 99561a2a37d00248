import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from shared.errors import PreconditionFailed
from shared.rpc.access.bind_rule import check_listen_address, log_openness
from shared.rpc.access.loopback import is_loopback
from shared.rpc.channel import open_channel
from shared.rpc.server.runner import running_server
from shared.settings import ClientSettings
from tests.shared.rpc.echo import LOCAL, SERVICE, call, echo
from tests.support.certificates import Authority, Files
from tests.support.processes import REPOSITORY
from tests.support.tokens import Issuer, write_jwks

EVERYWHERE = ("0.0.0.0:0", "[::]:0", "10.1.2.3:0", "embedder:0", "example.org:50051")
HERE = ("127.0.0.1:0", "127.9.9.9:1", "localhost:0", "[::1]:0")


async def _repeat(request: bytes) -> bytes:
    return request


@pytest.mark.parametrize("listen", EVERYWHERE)
@pytest.mark.parametrize(
    ("present", "lacking"),
    [
        ((), ("TLS", "MAGFACE_JWKS")),
        (("tls",), ("MAGFACE_JWKS",)),
        (("jwks",), ("MAGFACE_TLS_CERTIFICATE",)),
    ],
)
def test_other_machines_need_both_tls_and_tokens(
    listen: str, present: tuple[str, ...], lacking: tuple[str, ...]
) -> None:
    changes: dict[str, Any] = {"listen": listen}
    if "tls" in present:
        changes |= {"tls_certificate": Path("a"), "tls_key": Path("b")}
    if "jwks" in present:
        changes |= {"jwks": "c"}
    settings = LOCAL.model_copy(update=changes)
    with pytest.raises(PreconditionFailed, match="MAGFACE_INSECURE") as failed:
        check_listen_address(settings)
    assert all(part in str(failed.value) for part in lacking)
    check_listen_address(settings.model_copy(update={"insecure": True}))


@pytest.mark.parametrize("listen", HERE)
def test_this_machine_needs_neither_and_the_log_says_so(
    listen: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert is_loopback(listen)
    settings = LOCAL.model_copy(update={"listen": listen})
    check_listen_address(settings)
    log_openness(settings)
    assert "listens on loopback only" in caplog.text


async def test_the_log_of_a_running_server_says_who_may_call_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with running_server(LOCAL, SERVICE, echo(_repeat)):
        assert "listens on loopback only" in caplog.text
    open_to_all = LOCAL.model_copy(update={"listen": "0.0.0.0:0", "insecure": True})
    async with running_server(open_to_all, SERVICE, echo(_repeat)):
        assert "MAGFACE_INSECURE lets whoever reaches 0.0.0.0:0 call it" in caplog.text


async def test_a_server_with_both_may_be_reached_from_elsewhere(tmp_path: Path) -> None:
    files = Files(tmp_path / "service", Authority())
    jwks = str(write_jwks(tmp_path / "jwks", Issuer()))
    settings = LOCAL.model_copy(update={**files.own(), "jwks": jwks, "listen": "0.0.0.0:0"})
    async with running_server(settings, SERVICE, echo(_repeat)) as address:
        local = f"127.0.0.1:{address.rpartition(':')[2]}"
        async with open_channel(local, ClientSettings(tls_ca=files.ca)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(channel, "unary_unary", b"x")
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("service", ["embedder", "feedback", "trainer"])
def test_a_service_does_not_start_open_to_other_machines(service: str, tmp_path: Path) -> None:
    environment = {
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'protos'}",
        "MAGFACE_LISTEN": "0.0.0.0:0",
        "MAGFACE_DATABASE_URL": "postgresql://me:secret@127.0.0.1:9/magface",
        "MAGFACE_S3_ENDPOINT": "127.0.0.1:9",
        "MAGFACE_S3_ACCESS_KEY": "key",
        "MAGFACE_S3_SECRET_KEY": "secret",
        "MAGFACE_FEEDBACK_ADDRESS": "127.0.0.1:9",
    }
    ended = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "MAGFACE_INSECURE=true" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
