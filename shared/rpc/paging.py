"""Paging of lists, newest row first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from shared.errors import InvalidInput

_DEFAULT_SIZE = 100
_MAX_SIZE = 1000


_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Page:
    """The part of a list that a caller asks for.

    Attributes:
        size: Most rows on the page.
        before: Only rows with a smaller number are on it; None for the first page.
    """

    size: int
    before: int | None

    @property
    def limit(self) -> int:
        """Rows to read: one more than `size`, which tells whether another page follows."""
        return self.size + 1

    def cut(
        self, rows: Sequence[_Row], number: Callable[[_Row], int] = attrgetter("seq")
    ) -> tuple[Sequence[_Row], str]:
        """Return the rows of this page and the token of the next page.

        Args:
            rows: Up to `limit` rows, newest first.
            number: Gives the number of a row.
        """
        page = rows[: self.size]
        return page, str(number(page[-1])) if len(rows) > self.size else ""


def read_page(page_size: int, page_token: str) -> Page:
    """Read the paging fields of a request.

    Args:
        page_size: 1..1000; 0 means 100.
        page_token: The ``next_page_token`` of the previous page; empty for the first page.

    Raises:
        InvalidInput: If a field has another value.
    """
    if not 0 <= page_size <= _MAX_SIZE:
        raise InvalidInput("page_size", f"is {page_size}; it must be 1..{_MAX_SIZE}")
    valid = not page_token or (page_token.isascii() and page_token.isdecimal())
    if not valid or len(page_token) > 18:
        raise InvalidInput("page_token", "is not a next_page_token of this list")
    return Page(page_size or _DEFAULT_SIZE, int(page_token) if page_token else None)
