"""``magface token``: keys for tokens, and tokens, without an identity provider."""

import json
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli.output import JsonOption, emit, facts
from shared.errors import PreconditionFailed
from shared.files import write_atomically

app = typer.Typer(no_args_is_help=True, help="Keys for tokens, and tokens.")

_PRIVATE_NAME: Final = "signing-key.json"
_PUBLIC_NAME: Final = "jwks.json"
_DAY_S: Final = 86_400


class RoleChoice(StrEnum):
    """The roles of the contract."""

    CLIENT = "client"
    ANNOTATOR = "annotator"
    LABELLER = "labeller"
    TRAINER = "trainer"
    OPERATOR = "operator"


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Created if need be.")],
    revoke: Annotated[
        bool,
        typer.Option(
            "--revoke-others", help="Refuse all tokens that were signed with earlier keys."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a key that signs tokens, and add it to the key set of the services.

    The folder gets signing-key.json, which is secret and belongs to those who issue tokens, and
    jwks.json, the public keys: set MAGFACE_JWKS of the services to it. A second call makes another
    signing key; tokens of the earlier ones stay valid unless you revoke them.
    """
    from joserfc.jwk import OKPKey

    from shared.key_sets import SIGNING_ALGORITHM

    private, public = folder / _PRIVATE_NAME, folder / _PUBLIC_NAME
    earlier = [] if revoke or not public.exists() else _read_keys(public)
    key = OKPKey.generate_key("Ed25519", {"use": "sig", "alg": SIGNING_ALGORITHM}, auto_kid=True)
    key_set = {"keys": [key.as_dict(private=False), *earlier]}
    folder.mkdir(parents=True, exist_ok=True)
    # The services know the key before anybody can sign with it.
    write_atomically(public, json.dumps(key_set, indent=2) + "\n")
    write_atomically(private, json.dumps(key.as_dict(private=True), indent=2) + "\n", 0o600)
    found = {
        "kid": key.kid,
        "signing_key": str(private),
        "jwks": str(public),
        "keys": len(key_set["keys"]),
    }
    emit(as_json, found, facts(found))


@app.command()
def issue(
    *,
    key: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="signing-key.json.")],
    subject: Annotated[str, typer.Option(help="Name of the person or program.")],
    role: Annotated[list[RoleChoice], typer.Option(help="May be given several times.")],
    days: Annotated[float, typer.Option(min=0.001, max=3650, help="Until it expires.")] = 30,
    audience: Annotated[
        str, typer.Option(help="MAGFACE_TOKEN_AUDIENCE of the services.")
    ] = "magface",
    issuer: Annotated[
        str | None, typer.Option(help="MAGFACE_TOKEN_ISSUER of the services, if it is set.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File for the token, for its owner alone.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a token and print it. Whoever has it is the subject, so keep it like a password."""
    from joserfc import jwt

    from shared.key_sets import SIGNING_ALGORITHM
    from shared.validation import TextKind, TextRule

    name = TextRule(TextKind.PERSON, 128, required=True).check("--subject", subject)
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": name,
        "roles": sorted(one.value for one in set(role)),
        "aud": audience,
        "iat": now,
        "exp": now + int(days * _DAY_S),
    }
    if issuer is not None:
        claims["iss"] = issuer
    signing = _signing_key(key)
    header = {"alg": SIGNING_ALGORITHM, "kid": signing.kid}
    token = jwt.encode(header, claims, signing, algorithms=[SIGNING_ALGORITHM])
    if out is not None:
        write_atomically(out, token + "\n", 0o600)
    expires = datetime.fromtimestamp(claims["exp"], UTC).isoformat()
    found = {"subject": name, "roles": claims["roles"], "expires_at": expires}
    if as_json:
        emit(True, found | ({"file": str(out)} if out else {"token": token}), facts(found))
    else:
        typer.echo(f"written to {out}, valid until {expires}" if out else token)


def _signing_key(path: Path) -> Any:
    from shared.key_sets import load_signing_key

    try:
        return load_signing_key([path.read_bytes()])
    except ValueError as error:
        raise PreconditionFailed(f"{path}: {error}") from None


def _read_keys(path: Path) -> Any:
    try:
        return json.loads(path.read_text())["keys"]
    except (ValueError, KeyError, TypeError):
        raise PreconditionFailed(f"{path} was not written by `magface token keys`") from None
