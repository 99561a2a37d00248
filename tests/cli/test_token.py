"""Keys and tokens of ``magface token``, as a server checks them."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from click.testing import Result

from cli.commands.options import user_name
from cli.commands.token import RoleChoice
from shared.rpc.access.rules import ROLE_NAMES
from shared.rpc.channel import open_channel
from shared.rpc.server.runner import running_server
from tests.shared.rpc.echo import LOCAL, REPEATABLE, echo
from tests.support.tokens import bearer

Magface = Callable[..., Result]


async def _repeat(request: bytes) -> bytes:
    return request


async def _accepts(jwks: Path, *tokens: str, **settings: object) -> list[bool]:
    """Whether a server with these keys lets an operator's tokens in."""
    changed = LOCAL.model_copy(update={"jwks": str(jwks), **settings})
    accepted = []
    async with (
        running_server(changed, "magface.v1.FeedbackService", echo(_repeat)) as address,
        open_channel(address) as channel,
    ):
        for token in tokens:
            call = channel.unary_unary(REPEATABLE)(b"", metadata=bearer(token), timeout=20)
            try:
                await call
                accepted.append(True)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                accepted.append(False)
    return accepted


def _issue(magface: Magface, folder: Path, *more: str) -> str:
    key = folder / "signing-key.json"
    command = ("token", "issue", "--key", key, "--subject", "anna", "--role", "operator")
    result = magface(*command, *more)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


async def test_a_token_is_valid_while_its_key_is_in_the_set(
    magface: Magface, tmp_path: Path
) -> None:
    folder, jwks = tmp_path / "keys", tmp_path / "keys" / "jwks.json"
    assert magface("token", "keys", folder).exit_code == 0
    first = _issue(magface, folder)
    assert magface("token", "keys", folder).exit_code == 0
    second = _issue(magface, folder)
    assert await _accepts(jwks, first, second) == [True, True]
    assert magface("token", "keys", folder, "--revoke-others").exit_code == 0
    assert await _accepts(jwks, first, second, _issue(magface, folder)) == [False, False, True]


async def test_issuer_audience_and_end_are_in_the_token(magface: Magface, tmp_path: Path) -> None:
    folder, jwks = tmp_path / "keys", tmp_path / "keys" / "jwks.json"
    magface("token", "keys", folder)
    ours = _issue(magface, folder, "--issuer", "us", "--audience", "faces")
    strict = {"token_issuer": "us", "token_audience": "faces"}
    assert await _accepts(jwks, ours, _issue(magface, folder), **strict) == [True, False]
    found = json.loads(_issue(magface, folder, "--days", "0.5", "--json"))
    assert found["subject"] == "anna"
    assert await _accepts(jwks, found["token"]) == [True]


def test_secrets_are_for_their_owner_alone(magface: Magface, tmp_path: Path) -> None:
    folder, out = tmp_path / "keys", tmp_path / "token"
    magface("token", "keys", folder)
    printed = _issue(magface, folder, "--out", str(out))
    for path in (folder / "signing-key.json", out):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert out.read_text().strip() not in printed
    public = json.loads((folder / "jwks.json").read_text())
    assert all("d" not in key for key in public["keys"])


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kty": "oct", "k": "YQ"}', "public"])
def test_what_is_no_signing_key_is_named(magface: Magface, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "keys"
    magface("token", "keys", folder)
    key = tmp_path / "key.json"
    if content == "public":
        content = json.dumps(json.loads((folder / "jwks.json").read_text())["keys"][0])
    key.write_text(content)
    result = magface("token", "issue", "--key", key, "--subject", "a", "--role", "client")
    assert result.exit_code == 1
    assert str(key) in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("subject", ["", " ", "a\nb", "x" * 129])
def test_a_subject_is_a_name_of_a_person(magface: Magface, tmp_path: Path, subject: str) -> None:
    magface("token", "keys", tmp_path)
    key = tmp_path / "signing-key.json"
    result = magface("token", "issue", "--key", key, "--subject", subject, "--role", "client")
    assert result.exit_code == 1
    assert result.output.startswith("magface: --subject")


def test_the_command_knows_the_roles_of_the_contract() -> None:
    assert {role.value for role in RoleChoice} == set(ROLE_NAMES)


def test_with_a_token_commands_leave_the_name_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_name()
    for variable in ("MAGFACE_TOKEN", "MAGFACE_TOKEN_FILE"):
        with monkeypatch.context() as changed:
            changed.setenv(variable, "x")
            assert user_name() == ""
