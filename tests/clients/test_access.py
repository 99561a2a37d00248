"""Certificates and tokens of the Python client."""

from pathlib import Path

import grpc
import pytest
from magface_client import (
    Access,
    AsyncClient,
    Client,
    ConfigurationError,
    UnavailableError,
    channels,
)
from magface_client.access import is_this_machine
from magface_client.channels import service_addresses

from tests.clients.scripted_server import scripted_server
from tests.support.certificates import Authority, Files


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_FIRST_PAUSE_S", 0.02)


def _server(authority: Authority) -> grpc.ServerCredentials:
    certificate, key = authority.issue()
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authority.pem, require_client_auth=True
    )


def _access(files: Files, **more: object) -> Access:
    return Access(files.ca, files.certificate, files.key, **more)  # type: ignore[arg-type]


async def test_files_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Authority("first"), Authority("second")
    files = Files(tmp_path / "client", first)
    token = tmp_path / "token"
    token.write_text("one\n")
    access = _access(files, token_file=token)
    with scripted_server(_server(first)) as (script, port):
        address = f"127.0.0.1:{port}"
        client = Client(embedder=address, access=access)
        aio = AsyncClient(embedder=address, access=access)
        client.model()
        await aio.model()
        token.write_text("another")
        client.model()
        await aio.model()
        shown = [metadata["authorization"] for _, metadata in script.calls]
        assert shown == ["Bearer one"] * 2 + ["Bearer another"] * 2
        certificate, key = second.issue()
        files.certificate.write_bytes(certificate)
        client.model()
        assert "stays in use" in caplog.text
    with scripted_server(_server(second), port) as (script, _):
        files.key.write_bytes(key)
        files.ca.write_bytes(second.pem)
        client.model()
        await aio.model()
        assert len(script.calls) == 2
    client.close()
    await aio.close()


def test_a_server_of_another_authority_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path / "client", Authority("ours"))
    with (
        scripted_server(_server(Authority("theirs"))) as (script, port),
        Client(embedder=f"127.0.0.1:{port}", access=_access(files, token="secret")) as client,
        pytest.raises(UnavailableError),
    ):
        client.model(timeout_s=3)
    assert not script.calls


def test_the_environment_is_used_as_by_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path / "client", authority := Authority())
    with scripted_server(_server(authority)) as (script, port):
        monkeypatch.setenv("MAGFACE_TLS_CA", str(files.ca))
        monkeypatch.setenv("MAGFACE_TLS_CERTIFICATE", str(files.certificate))
        monkeypatch.setenv("MAGFACE_TLS_KEY", str(files.key))
        monkeypatch.setenv("MAGFACE_TOKEN", "from-environment")
        monkeypatch.setenv("MAGFACE_TOKEN_FILE", "")
        monkeypatch.setenv("MAGFACE_TRAINER_ADDRESS", f"localhost:{port}")
        with Client() as client:
            assert list(client.jobs()) == []
    assert script.calls[0][1]["authorization"] == "Bearer from-environment"
    assert "from-environment" not in repr(Access.from_environment())


def test_addresses_are_given_or_of_the_environment_or_the_ports_of_up() -> None:
    environment = {"MAGFACE_FEEDBACK_ADDRESS": "there:1", "MAGFACE_EMBEDDER_ADDRESS": "there:2"}
    assert service_addresses({"embedder": "here:3"}, environment) == {
        "embedder": "here:3",
        "feedback": "there:1",
        "trainer": "127.0.0.1:50053",
    }


@pytest.mark.parametrize("address", ["magface.example:50051", "10.0.0.1:1", "dns:///a:1"])
def test_a_token_is_not_shown_to_others_in_plain_text(address: str) -> None:
    with (
        Client(embedder=address, access=Access(token="secret")) as client,
        pytest.raises(ConfigurationError, match="plain text") as caught,
    ):
        client.model()
    assert "secret" not in str(caught.value)


def test_a_token_is_shown_to_this_machine() -> None:
    with (
        scripted_server() as (script, port),
        Client(embedder=f"localhost:{port}", access=Access(token="shown")) as client,
    ):
        client.model()
    assert script.calls[0][1]["authorization"] == "Bearer shown"
    for here in ("127.0.0.1:1", "[::1]:1", "ipv4:127.0.0.1:1,127.0.0.2:2", "unix:/run/x"):
        assert is_this_machine(here)
    for there in ("ipv4:127.0.0.1:1,10.0.0.2:2", "[2001:db8::1]:1", "localhost.example:1"):
        assert not is_this_machine(there)


def test_an_access_that_cannot_be_used_is_refused_at_once(tmp_path: Path) -> None:
    files = Files(tmp_path / "client", Authority())
    other = Files(tmp_path / "other", Authority())
    absent = tmp_path / "absent"
    wrong = [
        (Access(tls_ca=absent), "tls_ca.*cannot be read"),
        (Access(tls_ca=files.key), "tls_ca.*no valid certificate"),
        (Access(files.ca, files.certificate), "must be set together"),
        (Access(None, files.certificate, files.key), "needs tls_ca"),
        (Access(files.ca, files.certificate, other.key), "not a certificate and its private key"),
        (Access(files.ca, files.ca, files.key), "not a certificate and its private key"),
        (Access(token="a", token_file=files.ca), "set one of them"),
        (Access(token=" "), "not a token"),
        (Access(token="a b"), "not a token"),
        (Access(token_file=absent), "token_file.*cannot be read"),
        (Access(token_file=files.ca), "token_file.*not a token"),
    ]
    for access, message in wrong:
        with pytest.raises(ConfigurationError, match=message):
            Client(access=access)
