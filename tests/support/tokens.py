"""Tokens that are made for a test."""

import json
import time
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import OKPKey


class Issuer:
    """Signs tokens with a key of its own."""

    def __init__(self) -> None:
        self.key = OKPKey.generate_key("Ed25519", auto_kid=True)

    def public(self) -> dict[str, Any]:
        """The public key as an entry of a key set."""
        return dict(self.key.as_dict(private=False))

    def token(self, *roles: str, subject: str = "anna", **claims: Any) -> str:
        """Sign a token; claims replace or, with None, remove those of a valid one."""
        now = int(time.time())
        valid = {
            "sub": subject,
            "roles": list(roles),
            "aud": "magface",
            "iss": "us",
            "exp": now + 600,
        }
        made = {name: value for name, value in (valid | claims).items() if value is not None}
        header = {"alg": "Ed25519", "kid": self.key.kid}
        return jwt.encode(header, made, self.key, algorithms=["Ed25519"])


def expired() -> dict[str, int]:
    """Claims of a token that has expired longer ago than clocks may differ."""
    return {"exp": int(time.time()) - 3600}


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"),)


def write_jwks(path: Path, *issuers: Issuer) -> Path:
    """Write the key set of issuers."""
    path.write_text(json.dumps({"keys": [issuer.public() for issuer in issuers]}))
    return path


def write_signing_key(path: Path, issuer: Issuer) -> Path:
    """Write the private key of an issuer, as `magface token keys` does."""
    path.write_text(json.dumps(issuer.key.as_dict(private=True)))
    return path
