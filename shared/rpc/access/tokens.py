"""Checks the tokens (JWT) that callers show."""

import time
from typing import Any, Final

from joserfc import jws, jwt
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    InvalidKeyIdError,
    JoseError,
)
from joserfc.jwk import KeySet

from shared.errors import InvalidInput, Unauthenticated
from shared.rpc.access.caller import Caller
from shared.rpc.access.key_sources import KeySource
from shared.rpc.access.rules import ROLE_NAMES
from shared.settings import ServerSettings
from shared.validation import TextKind, TextRule

# Asymmetric only: a public key must not be taken for a shared secret.
_ALGORITHMS: Final = (
    *("EdDSA", "Ed25519", "ES256", "ES384", "ES512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
)
_SUBJECT: Final = TextRule(TextKind.PERSON, 128, required=True)
_MOST_KNOWN: Final = 10_000


class TokenVerifier:
    """Finds out whose a token is.

    A token that was checked is known until it expires or the keys change, because a signature takes
    longer to check than a small call.

    Args:
        settings: Issuer, audience, the claim with the roles, and the leeway of clocks.
        keys: The keys that are valid.
    """

    def __init__(self, settings: ServerSettings, keys: KeySource) -> None:
        self._roles_claim = settings.token_roles_claim.split(".")
        self._leeway_s = settings.token_leeway_s
        required: dict[str, Any] = {
            "sub": {"essential": True},
            "exp": {"essential": True},
            "aud": {"essential": True, "value": settings.token_audience},
        }
        if settings.token_issuer is not None:
            required["iss"] = {"essential": True, "value": settings.token_issuer}
        self._claims = jwt.JWTClaimsRegistry(leeway=int(settings.token_leeway_s), **required)
        self._registry = jws.JWSRegistry(
            algorithms=list(_ALGORITHMS),
            # Identity providers add headers of their own; critical ones are refused all the same.
            strict_check_header=False,
        )
        self._keys = keys
        self._known_with: KeySet | None = None
        self._known: dict[str, tuple[float, Caller]] = {}

    async def verify(self, token: str) -> Caller:
        """Check a token.

        Raises:
            Unauthenticated: If it is not valid; the text does not quote it.
            Unavailable: If there are no keys yet.
        """
        keys = self._keys.current()
        if keys is not self._known_with:
            self._known.clear()
            self._known_with = keys
        expires, caller = self._known.get(token, (0.0, None))
        if caller is not None and time.time() < expires:
            return caller
        try:
            claims = self._decode(token, keys)
        except InvalidKeyIdError:
            await self._keys.refresh()
            claims = self._decode_again(token)
        caller = self._caller(claims)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[token] = float(claims["exp"]) + self._leeway_s, caller
        return caller

    def _decode_again(self, token: str) -> dict[str, Any]:
        try:
            return self._decode(token, self._keys.current())
        except InvalidKeyIdError:
            raise Unauthenticated("the token is signed with a key that is not known") from None

    def _decode(self, token: str, keys: KeySet) -> dict[str, Any]:
        try:
            claims = jwt.decode(token, keys, registry=self._registry).claims
            self._claims.validate(claims)
        except InvalidKeyIdError:
            raise
        except BadSignatureError:
            raise Unauthenticated("the signature of the token is wrong") from None
        except ExpiredTokenError:
            raise Unauthenticated("the token has expired") from None
        except ClaimError as error:
            raise Unauthenticated(f"the claim {error.claim!r} of the token is not valid") from None
        except (JoseError, ValueError, TypeError, KeyError):
            raise Unauthenticated("the token is not a valid JWT") from None
        return claims

    def _caller(self, claims: dict[str, Any]) -> Caller:
        try:
            subject = _SUBJECT.check("sub", claims["sub"])
        except InvalidInput:
            raise Unauthenticated("the claim 'sub' of the token is not valid") from None
        roles: Any = claims
        for part in self._roles_claim:
            roles = roles.get(part) if isinstance(roles, dict) else None
        named = roles.split() if isinstance(roles, str) else roles
        names = named if isinstance(named, list) else []
        return Caller(
            subject,
            frozenset(ROLE_NAMES[name] for name in names if name in ROLE_NAMES),
        )
