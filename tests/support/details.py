"""Errors whose details are for the log alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shared.errors import MagFaceError, with_details

_INTERNAL = re.compile(r"""
    \d+\.\d+\.\d+\.\d+      # an address
    | \b\w[\w.-]*:\d{2,5}\b   # a host with a port
    | (^|[\s"'(=])/\w+/       # a path
    | s3://|postgres(ql)?://
    | psycopg|urllib3|minio|FATAL|errno
""", re.VERBOSE | re.IGNORECASE)  # fmt: skip


def assert_nothing_internal(text: str) -> None:
    """Check that a text for callers names no address, no path and no text of a library."""
    found = _INTERNAL.search(text)
    assert found is None, f"{found[0]!r} in {text!r}"


@contextmanager
def raises_with_details(
    kind: type[MagFaceError], match: str
) -> Iterator[pytest.ExceptionInfo[MagFaceError]]:
    """As `pytest.raises`, but looks for the pattern in the details of the error, too."""
    with pytest.raises(kind) as caught:
        yield caught
    assert_nothing_internal(str(caught.value))
    text = with_details(caught.value)
    assert re.search(match, text), text
