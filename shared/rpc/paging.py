"""Lists are handed out a page at a time, newest first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from shared.errors import InvalidInput

_DEFAULT_SIZE = 100
_LARGEST_SIZE = 1000


_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted.

    Attributes:
        size: How many rows at most.
        before: Only rows with a smaller number; None begins with the newest.
    """

    size: int
    before: int | None

    @property
    def limit(self) -> int:
        """How many rows to read: one more tells whether another page follows."""
        return self.size + 1

    def cut(
        self, rows: Sequence[_Row], number: Callable[[_Row], int] = attrgetter("seq")
    ) -> tuple[Sequence[_Row], str]:
        """Give the rows of this page, of up to `limit`, and the token of the next."""
        page = rows[: self.size]
        return page, str(number(page[-1])) if len(rows) > self.size else ""


def read_page(page_size: int, page_token: str) -> Page:
    """Read what a caller wants to see.

    Args:
        page_size: 1..1000; 100 when 0.
        page_token: What came with the page before; empty for the first.

    Raises:
        InvalidInput: If it is neither.
    """
    if not 0 <= page_size <= _LARGEST_SIZE:
        raise InvalidInput("page_size", f"is {page_size}; 1..{_LARGEST_SIZE} are possible")
    known = not page_token or (page_token.isascii() and page_token.isdecimal())
    if not known or len(page_token) > 18:
        raise InvalidInput("page_token", "is not a next_page_token of this list")
    return Page(page_size or _DEFAULT_SIZE, int(page_token) if page_token else None)
