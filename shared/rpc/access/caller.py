"""Who makes the call that is being handled."""

import hashlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from magface.v1.access_pb2 import ROLE_LABELLER, ROLE_OPERATOR, ROLE_TRAINER, Role

from shared.errors import PermissionDenied
from shared.validation import normal_name

_READ_ALL: Final = frozenset({ROLE_OPERATOR, ROLE_TRAINER})
_LONGEST_KEY: Final = 128
_OWNER_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid token.

    Attributes:
        subject: Name from the token, in the form in which names of people are stored.
        roles: Values of the contract's ``Role``.
    """

    subject: str
    roles: frozenset[Role.ValueType]

    @property
    def may_name_others(self) -> bool:
        """Whether the caller may label and lease in the name of any annotator."""
        return ROLE_LABELLER in self.roles

    @property
    def may_read_all_images(self) -> bool:
        """Whether the caller may read every stored image."""
        return not self.roles.isdisjoint(_READ_ALL)

    def named(self, field: str, name: str, *, or_others: bool) -> str:
        """Give the name that a request means where it names its caller.

        Args:
            field: The field, for the error.
            name: Its text; empty for the caller.
            or_others: Whether it may be the name of somebody else.

        Raises:
            PermissionDenied: If it is, and may not be.
        """
        if not name.strip() or normal_name(name) == self.subject:
            return self.subject
        if or_others:
            return name
        raise PermissionDenied(
            f"{field}: the token is for {self.subject!r}; leave the field empty, or give that name"
        )

    def own_key(self, key: str) -> str:
        """Give a key that belongs to the caller alone, in place of one that the caller chose.

        Args:
            key: Idempotency key of a label, at most 128 characters; empty stays empty.

        Returns:
            At most 128 characters. It ends with the key, for errors, unless the key is very long.
        """
        if not key:
            return key
        owner = hashlib.sha256(self.subject.encode()).hexdigest()[:_OWNER_DIGITS]
        own = f"{owner}:{key}"
        return own if len(own) <= _LONGEST_KEY else hashlib.sha256(own.encode()).hexdigest()


_CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """Return who makes the call that is handled; None on a server without keys for tokens."""
    return _CALLER.get()


def set_caller(caller: Caller | None) -> None:
    """Set who makes the call; it holds in the task that handles it."""
    _CALLER.set(caller)
