"""Mapping of the errors of psycopg to the domain's errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import errors

from shared.errors import AccessRefused, Conflict, Unavailable

# Besides OperationalError: connection lost, disk full, too many connections, no memory, shutdown,
# a statement cancelled, and no connection of the pool free.
_OF_ENVIRONMENT: Final = (
    psycopg.OperationalError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
    errors.InsufficientPrivilege,
    errors.InvalidAuthorizationSpecification,
    errors.InternalError_,
    errors.DataCorrupted,
    errors.IndexCorrupted,
)
_REMEDIES: Final[tuple[tuple[type[psycopg.Error], str], ...]] = (
    (errors.ReadOnlySqlTransaction, "it is read-only: a standby, or set so by an operator"),
    (errors.InsufficientPrivilege, "grant the user its rights again"),
    (errors.DiskFull, "its disk is full: free space or add some"),
    (errors.TooManyConnections, "raise max_connections or lower MAGFACE_DATABASE_POOL_SIZE"),
    (errors.DataCorrupted, "look into the log of Postgres"),
    (errors.IndexCorrupted, "look into the log of Postgres"),
    (errors.InternalError_, "look into the log of Postgres"),
)


# Why Postgres refuses a connection. psycopg gives no code for it, only the text.
_REFUSED: Final = re.compile(
    r"FATAL:.*(authentication failed|no pg_hba\.conf entry|(role|database) .* does not exist)"
    r"|no password supplied",
    re.DOTALL,
)


@contextmanager
def database_errors(what: str = "the database cannot answer now") -> Iterator[None]:
    """Raise the domain's error in place of one that psycopg raises in the block.

    Errors of the program, such as a wrong statement or a violated constraint, stay as they are.

    Args:
        what: Begins the message of `Unavailable`.

    Raises:
        Conflict: If a concurrent transaction was committed first.
        AccessRefused: If the database refuses the user or the password, or does not exist.
        Unavailable: If the database cannot answer now.
    """
    try:
        yield
    except (errors.SerializationFailure, errors.DeadlockDetected) as error:
        raise Conflict("a concurrent change was committed first", detail=_reason(error)) from error
    except psycopg.Error as error:
        if not _is_of_environment(error):
            raise
        kind = AccessRefused if _REFUSED.search(str(error)) else Unavailable
        raise kind(f"{what}{_remedy(error)}", detail=_reason(error)) from error


def _is_of_environment(error: psycopg.Error) -> bool:
    # A DatabaseError of no kind comes from libpq when it does not understand what it receives.
    return isinstance(error, _OF_ENVIRONMENT) or type(error) is psycopg.DatabaseError


def _reason(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _remedy(error: psycopg.Error) -> str:
    """Give the end of the message for people: what to do, as far as that is known."""
    remedy = next((remedy for kind, remedy in _REMEDIES if isinstance(error, kind)), None)
    return f": {remedy}" if remedy else ""
