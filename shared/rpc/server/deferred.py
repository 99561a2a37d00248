"""What a servicer calls, once its stores are there."""

from typing import Generic, TypeVar

from shared.errors import Unavailable

_T = TypeVar("_T")


class Deferred(Generic[_T]):
    """Holds what can be asked, or nothing yet: a server answers before its stores do.

    Args:
        owner: Who waits, for the error.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._what: _T | None = None

    def set(self, what: _T) -> None:
        """Give what to ask from now on."""
        self._what = what

    def __call__(self) -> _T:
        """Give what to ask.

        Raises:
            Unavailable: If there is nothing yet.
        """
        if self._what is None:
            raise Unavailable(f"{self._owner} still waits for its database and object store")
        return self._what
