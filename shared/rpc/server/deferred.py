"""A dependency of a servicer that is set after the server has started."""

from typing import Generic, TypeVar

from shared.errors import Unavailable

_T = TypeVar("_T")


class Deferred(Generic[_T]):
    """A value that is not set until the database and the object store can be reached.

    Args:
        owner: What waits for the stores, for the error, e.g. ``"the trainer"``.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._value: _T | None = None

    def set(self, value: _T) -> None:
        """Set the value."""
        self._value = value

    def __call__(self) -> _T:
        """Return the value.

        Raises:
            Unavailable: If it is not set yet.
        """
        if self._value is None:
            raise Unavailable(f"{self._owner} still waits for its database and object store")
        return self._value
