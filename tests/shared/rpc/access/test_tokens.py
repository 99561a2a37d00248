import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from pydantic import SecretStr

from shared.errors import PreconditionFailed
from shared.rpc.access.caller import current_caller
from shared.rpc.channel import open_channel, open_sync_channel
from shared.rpc.server.runner import running_server
from shared.settings import ClientSettings, ServerSettings
from tests.shared.rpc.contract import contract, kind_of
from tests.shared.rpc.echo import LOCAL, REPEATABLE, echo
from tests.support.certificates import Authority, Files
from tests.support.tokens import Issuer, bearer, expired, write_jwks
from tests.support.waiting import until

# Of the contract: the operator and labelling clients may call it.
METHOD = REPEATABLE


async def _who(_: bytes) -> bytes:
    caller = current_caller()
    return caller.subject.encode() if caller else b"nobody"


def settings_with(jwks: Path | str, **changes: Any) -> ServerSettings:
    return LOCAL.model_copy(update={"jwks": str(jwks), **changes})


@asynccontextmanager
async def served(settings: ServerSettings) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        running_server(settings, "magface.v1.FeedbackService", echo(_who)) as address,
        open_channel(address) as channel,
    ):
        yield channel


async def ask(channel: grpc.aio.Channel, token: str | None) -> str:
    """Call with a token; returns whom the server takes the caller for, or the status."""
    metadata = () if token is None else bearer(token)
    try:
        answer: bytes = await channel.unary_unary(METHOD)(b"", metadata=metadata, timeout=20)
    except grpc.aio.AioRpcError as error:
        assert not token or token not in error.details()
        return f"{error.code().name}: {error.details()}"
    return answer.decode()


async def test_the_caller_is_the_subject_of_the_token(tmp_path: Path) -> None:
    issuer = Issuer()
    async with served(settings_with(write_jwks(tmp_path / "jwks", issuer))) as channel:
        assert await ask(channel, issuer.token("operator", subject="anna")) == "anna"
        assert await ask(channel, issuer.token("operator", subject="  a\u0308nna ")) == "änna"
        assert await ask(channel, issuer.token("operator", aud=["other", "magface"])) == "anna"


async def test_without_keys_everybody_may_call() -> None:
    async with served(LOCAL) as channel:
        assert await ask(channel, None) == "nobody"
        assert await ask(channel, "whatever") == "nobody"


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _unsigned_part(header: dict[str, Any]) -> str:
    claims = {"sub": "anna", "roles": ["operator"], "aud": "magface", "iss": "us"}
    claims |= {"exp": time.time() + 600}
    return ".".join(_part(json.dumps(one).encode()) for one in (header, claims))


def _unsigned(issuer: Issuer) -> str:
    return _unsigned_part({"alg": "none", "kid": issuer.key.kid}) + "."


def _signed_with_the_public_key(issuer: Issuer) -> str:
    """A token that a server takes for valid if it uses a public key as a shared secret."""
    text = _unsigned_part({"alg": "HS256", "kid": issuer.key.kid})
    secret = issuer.key.as_bytes(encoding="PEM", private=False)
    return f"{text}.{_part(hmac.digest(secret, text.encode(), 'sha256'))}"


def _changed(issuer: Issuer) -> str:
    head, _, signature = issuer.token("annotator").split(".")
    body = issuer.token("operator").split(".")[1]
    return f"{head}.{body}.{signature}"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda one: one.token("operator", **expired()), "has expired"),
        (lambda one: one.token("operator", nbf=time.time() + 3600), "'nbf'"),
        (lambda one: one.token("operator", exp=None), "'exp'"),
        (lambda one: one.token("operator", exp="tomorrow"), "'exp'"),
        (lambda one: one.token("operator", aud=None), "'aud'"),
        (lambda one: one.token("operator", aud=["other"]), "'aud'"),
        (lambda one: one.token("operator", sub=None), "'sub'"),
        (lambda one: one.token("operator", sub=7), "'sub'"),
        (lambda one: one.token("operator", subject=" "), "'sub'"),
        (lambda one: one.token("operator", subject="an\u200bna"), "'sub'"),
        (lambda one: one.token("operator", subject="x" * 129), "'sub'"),
        (lambda one: one.token("operator", iss="https://other"), "'iss'"),
        (lambda one: one.token("operator", iss=None), "'iss'"),
        (lambda _: Issuer().token("operator"), "not known"),
        (_unsigned, "not a valid JWT"),
        (_signed_with_the_public_key, "not a valid JWT"),
        (_changed, "signature"),
        (lambda _: "abc", "not a valid JWT"),
        (lambda _: "a.b.c", "not a valid JWT"),
        (lambda _: "-" * 4000, "not a valid JWT"),
    ],
)
async def test_any_other_token_is_refused_with_a_plain_reason(
    tmp_path: Path, make: Callable[[Issuer], str], why: str
) -> None:
    issuer = Issuer()
    jwks = write_jwks(tmp_path / "jwks", issuer, Issuer())
    async with served(settings_with(jwks, token_issuer="us")) as channel:
        assert await ask(channel, issuer.token("operator")) == "anna"
        answer = await ask(channel, make(issuer))
    assert answer.startswith("UNAUTHENTICATED: the ")
    assert any(part in answer for part in why.split("|")), answer


@pytest.mark.parametrize("value", ["Basic abc", "Bearer", "Bearer ", "abc", ""])
async def test_other_credentials_are_not_tokens(tmp_path: Path, value: str) -> None:
    async with served(settings_with(write_jwks(tmp_path / "jwks", Issuer()))) as channel:
        call = channel.unary_unary(METHOD)(b"", metadata=(("authorization", value),), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_keys_of_identity_providers_are_accepted(tmp_path: Path) -> None:
    """RSA and elliptic curves, roles in another claim, and headers of their own."""
    keys = [
        ("RS256", RSAKey.generate_key(2048, auto_kid=True)),
        ("ES256", ECKey.generate_key("P-256", auto_kid=True)),
    ]
    jwks = tmp_path / "jwks"
    public = [{**key.as_dict(private=False), "x-own": "1"} for _, key in keys]
    jwks.write_text(json.dumps({"keys": [*public, {"kty": "future", "kid": "x"}]}))
    now = int(time.time())
    claims = {"sub": "anna", "aud": "magface", "exp": now + 60, "realm": {"roles": ["operator"]}}
    async with served(settings_with(jwks, token_roles_claim="realm.roles")) as channel:
        for algorithm, key in keys:
            header = {"alg": algorithm, "kid": key.kid}
            token = jwt.encode(header, claims, key, algorithms=[algorithm])
            assert await ask(channel, token) == "anna"


async def test_keys_are_added_and_revoked_while_the_server_runs(tmp_path: Path) -> None:
    old, new = Issuer(), Issuer()
    jwks = write_jwks(tmp_path / "jwks", old)
    tokens = [one.token("operator", subject=name) for one, name in ((old, "old"), (new, "new"))]
    async with served(settings_with(jwks)) as channel:

        async def known() -> list[bool]:
            return ["UNAUTH" not in await ask(channel, token) for token in tokens]

        assert await known() == [True, False]
        write_jwks(jwks, old, new)
        assert await known() == [True, True]
        jwks.write_text("not written completely")
        assert await known() == [True, True]
        write_jwks(jwks, new)
        # Although the server knows the token since its first call.
        assert await known() == [False, True]


async def test_a_known_token_is_refused_when_it_expires(tmp_path: Path) -> None:
    issuer = Issuer()
    jwks = write_jwks(tmp_path / "jwks", issuer)
    async with served(settings_with(jwks, token_leeway_s=0.0)) as channel:
        token = issuer.token("operator", exp=int(time.time()) + 2)
        assert await ask(channel, token) == "anna"

        async def refused() -> bool:
            return "has expired" in await ask(channel, token)

        await until(refused, 10)


class _Provider:
    """An identity provider's page with its keys."""

    def __init__(self, *issuers: Issuer) -> None:
        self.issuers = issuers
        self.asked = 0
        self.elsewhere = ""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                if provider.elsewhere:
                    self.send_response(302)
                    self.send_header("Location", provider.elsewhere)
                    self.end_headers()
                    return
                keys = {"keys": [issuer.public() for issuer in provider.issuers]}
                self.send_response(200 if provider.issuers else 500)
                self.end_headers()
                self.wfile.write(json.dumps(keys).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"

    def __enter__(self) -> "_Provider":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


async def test_keys_of_a_url_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.rpc.access.key_sources._REST_S", 0.5)
    old, new = Issuer(), Issuer()
    with _Provider() as provider:
        async with served(settings_with(provider.url, jwks_refresh_s=0.2)) as channel:
            call = channel.unary_unary(METHOD)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(b"", metadata=bearer(old.token("operator")), timeout=20)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            provider.issuers = (old,)

            async def known() -> bool:
                return await ask(channel, old.token("operator")) == "anna"

            await until(known, 10)
    with _Provider(old) as provider:
        # Only a token with an unknown key makes the server read again, and not each of them.
        async with served(settings_with(provider.url, jwks_refresh_s=3600)) as channel:
            await until(lambda: provider.asked == 1, 10)
            await asyncio.sleep(0.6)
            provider.issuers = (old, new)
            asked = [ask(channel, one.token("operator")) for one in (new, Issuer(), Issuer())]
            first, *others = await asyncio.gather(*asked)
            assert first == "anna"
            assert all("not known" in other for other in others)
            assert provider.asked == 2


async def test_keys_are_not_looked_for_where_the_url_does_not_point() -> None:
    issuer = Issuer()
    with _Provider(issuer) as elsewhere, _Provider(issuer) as provider:
        provider.elsewhere = elsewhere.url
        async with served(settings_with(provider.url, jwks_refresh_s=0.1)) as channel:
            await until(lambda: provider.asked >= 3, 10)
            assert not elsewhere.asked
            answer = await ask(channel, issuer.token("operator"))
    assert answer.startswith("UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "not a JSON Web Key Set"),
        ("[]", "not a JSON Web Key Set"),
        ('{"keys": []}', "not a JSON Web Key Set"),
        ('{"keys": [{"kty": "OKP"}]}', "not a JSON Web Key Set"),
        # Named, because the two processes of a parallel run make different keys.
        pytest.param(
            json.dumps({"keys": [OctKey.generate_key(256).as_dict()]}),
            "public keys only",
            id="a symmetric key",
        ),
        pytest.param(
            json.dumps({"keys": [Issuer().key.as_dict(private=True)]}),
            "public keys only",
            id="a private key",
        ),
        (None, "cannot be read"),
    ],
)
async def test_a_server_does_not_start_with_keys_that_it_cannot_use(
    tmp_path: Path, content: str | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "jwks").write_text(content)
    with pytest.raises(PreconditionFailed, match=f"MAGFACE_JWKS: .*{why}"):
        async with served(settings_with(tmp_path / "jwks")):
            pass


@pytest.mark.parametrize("url", ["http://keys.example/jwks", "ftp://127.0.0.1/jwks", "file:///x"])
async def test_keys_are_not_read_where_others_could_change_them(url: str) -> None:
    with pytest.raises(PreconditionFailed, match="MAGFACE_JWKS must be a file or start with https"):
        async with served(settings_with(url)):
            pass


@pytest.mark.parametrize("tls", [True, False])
async def test_clients_show_the_token_of_their_settings(tmp_path: Path, tls: bool) -> None:
    issuer = Issuer()
    files = Files(tmp_path / "service", Authority())
    settings = settings_with(write_jwks(tmp_path / "jwks", issuer), **(files.own() if tls else {}))
    token_file = tmp_path / "token"
    token_file.write_text(issuer.token("operator", subject="first") + "\n")
    ca = files.ca if tls else None
    by_file = ClientSettings(tls_ca=ca, token_file=token_file)
    by_value = ClientSettings(tls_ca=ca, token=SecretStr(issuer.token("operator", subject="value")))

    def ask_blocking(address: str) -> bytes:
        with open_sync_channel(address, by_value) as channel:
            return bytes(channel.unary_unary(METHOD)(b"", timeout=20))

    async with (
        running_server(settings, "magface.v1.FeedbackService", echo(_who)) as address,
        open_channel(address, by_file) as channel,
    ):
        assert await channel.unary_unary(METHOD)(b"", timeout=20) == b"first"
        token_file.write_text(issuer.token("operator", subject="second"))
        assert await channel.unary_unary(METHOD)(b"", timeout=20) == b"second"
        assert await asyncio.to_thread(ask_blocking, address) == b"value"


async def test_a_token_is_not_sent_to_other_machines_in_plain_text() -> None:
    settings = ClientSettings(token=SecretStr("abc.def.ghi"))
    for address in (
        "10.0.0.1:50051",
        "embedder:50051",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "dns:///a:1",
    ):
        with pytest.raises(PreconditionFailed, match="MAGFACE_TLS_CA"):
            open_channel(address, settings)
        with pytest.raises(PreconditionFailed, match="MAGFACE_TLS_CA"):
            open_sync_channel(address, settings)
    for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "ipv4:127.0.0.1:1,127.0.0.2:1"):
        await open_channel(address, settings).close()


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", "ä"])
def test_what_is_no_token_is_refused_by_its_setting_without_its_text(token: str) -> None:
    with pytest.raises(PreconditionFailed, match=r"^MAGFACE_TOKEN: it is not a token"):
        open_channel("127.0.0.1:1", ClientSettings(token=SecretStr(token)))


async def test_tokens_are_not_taken_for_a_part_of_an_idle_stream(tmp_path: Path) -> None:
    """A stream may be idle beside calls whose headers are long."""
    issuer = Issuer()
    files = Files(tmp_path / "service", Authority())
    jwks = write_jwks(tmp_path / "jwks", issuer)
    settings = settings_with(jwks, **files.own(), upload_timeout_s=0.2)
    long = bearer(issuer.token("operator", more="x" * 4000))
    short = bearer(issuer.token("labeller"))
    done = asyncio.Event()

    async def idle() -> AsyncIterator[bytes]:
        yield b"a"
        await done.wait()
        yield b"b"

    async with (
        running_server(settings, "magface.v1.FeedbackService", contract(_echoing)) as address,
        open_channel(address, ClientSettings(tls_ca=files.ca)) as channel,
    ):
        stream = channel.stream_stream("/magface.v1.FeedbackService/SubmitFeedbackStream")(
            idle(), metadata=short, timeout=60
        )
        assert await stream.read() == b"a"
        for _ in range(1000):
            await channel.unary_unary(METHOD)(b"", metadata=long, timeout=20)
        done.set()
        assert await stream.read() == b"b"


def _echoing(method: MethodDescriptor) -> Any:
    async def one(request: bytes, _: Any) -> bytes:
        return request

    async def each(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    kind = kind_of(method)
    return getattr(grpc, f"{kind}_rpc_method_handler")(each if kind == "stream_stream" else one)
