"""Guard that lets only those callers in who may call a method."""

from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Final

from shared.errors import PermissionDenied, Unauthenticated
from shared.rpc.access.caller import set_caller
from shared.rpc.access.rate_limits import RateLimits, set_bucket
from shared.rpc.access.rules import ROLE_NAMES, is_open, roles_for
from shared.rpc.access.tokens import TokenVerifier
from shared.rpc.server.interceptors import CallGuard, Context, Guard, GuardFactory

_SCHEME: Final = "bearer"


def access_guard(verifier: TokenVerifier, limits: RateLimits) -> GuardFactory:
    """Make the factory of the guards, which go around the receiving of a request.

    A guard raises Unauthenticated without a valid token, PermissionDenied without a role for the
    method, and Overloaded if the caller makes too many calls. Inside it, `current_caller` gives the
    caller and `current_bucket` what counts the messages of a stream.
    """
    return partial(_make, verifier, limits)


def _make(verifier: TokenVerifier, limits: RateLimits, method: str) -> Guard:
    if is_open(method):
        return _nothing
    return partial(_AccessGuard, verifier, limits, method)


def _nothing(_: Context) -> AbstractAsyncContextManager[None]:
    return nullcontext()


class _AccessGuard(CallGuard):
    def __init__(
        self, verifier: TokenVerifier, limits: RateLimits, method: str, context: Context
    ) -> None:
        self._verifier = verifier
        self._limits = limits
        self._method = method
        self._context = context

    async def __aenter__(self) -> None:
        caller = await self._verifier.verify(_token(self._context))
        allowed = roles_for(self._method)
        if caller.roles.isdisjoint(allowed):
            names = [name for name, role in ROLE_NAMES.items() if role in allowed]
            raise PermissionDenied(
                f"{self._method.rpartition('/')[2]} needs the role {' or '.join(names)},"
                " which the token does not give"
                if names
                else "nobody may call this method"
            )
        if (bucket := self._limits.bucket(caller.subject, self._method)) is not None:
            bucket.take()
            set_bucket(bucket)
        set_caller(caller)

    async def ended(self, error: BaseException | None) -> None:
        """Do nothing."""


def _token(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            scheme, _, token = str(value).partition(" ")
            if scheme.lower() == _SCHEME and token:
                return token.strip()
            raise Unauthenticated("the metadata 'authorization' must be 'Bearer TOKEN'")
    raise Unauthenticated("the call has no token: send the metadata 'authorization: Bearer TOKEN'")
