"""gRPC clients of the services, found by the stack's folder or by the environment."""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import grpc
import typer
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub
from magface.v1.feedback_pb2_grpc import FeedbackServiceStub
from magface.v1.trainer_pb2_grpc import TrainerServiceStub

from shared.errors import PreconditionFailed, Unavailable
from shared.rpc.errors import domain_errors

Service = Literal["embedder", "feedback", "trainer"]

DEFAULT_DIR = Path("run")
CALL_TIMEOUT_S = 60.0
_LONGEST_PAGE = 1000
_TRIES = 5
_PAUSE_S = 1.0

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        file_okay=False,
        help="Folder of a running `magface up`. By default the services at "
        "MAGFACE_EMBEDDER_ADDRESS and so on, or those of the stack in ./run.",
    ),
]


def service_address(service: Service, folder: Path | None) -> str:
    """Finds a service's gRPC target: from ``folder``, else the environment, else ./run.

    Raises:
        PreconditionFailed: None of them has an address.
    """
    # pydantic takes a third of the time of `magface --help`.
    from deploy.local.endpoints import Endpoints

    variable = f"MAGFACE_{service.upper()}_ADDRESS"
    if folder is None and os.environ.get(variable):
        return os.environ[variable]
    endpoints = Endpoints.read(folder or DEFAULT_DIR)
    if endpoints is None:
        raise PreconditionFailed(
            f"no stack is ready in {(folder or DEFAULT_DIR).absolute()}: start one with "
            f"`magface up --dir DIR`, name its folder with --dir, or set {variable}"
        )
    return str(getattr(endpoints, service))


@contextmanager
def embedder(folder: Path | None) -> Iterator[EmbedderServiceStub]:
    """Opens a client of the embedder whose failed calls raise domain errors."""
    with _channel("embedder", folder) as channel:
        yield EmbedderServiceStub(channel)


@contextmanager
def feedback(folder: Path | None) -> Iterator[FeedbackServiceStub]:
    """Opens a client of the feedback service whose failed calls raise domain errors."""
    with _channel("feedback", folder) as channel:
        yield FeedbackServiceStub(channel)


@contextmanager
def trainer(folder: Path | None) -> Iterator[TrainerServiceStub]:
    """Opens a client of the trainer whose failed calls raise domain errors."""
    with _channel("trainer", folder) as channel:
        yield TrainerServiceStub(channel)


def new_key() -> str:
    """Makes an idempotency key for one request; a retry of the request has the same key."""
    return secrets.token_hex(16)


def repeat_if_cut(call: Callable[[float], _Answer], timeout_s: float) -> _Answer:
    """Makes a streaming call, and repeats it while its service cannot be reached.

    gRPC itself retries only streams that fit its buffer.

    Args:
        call: Makes the call, given its timeout in seconds. It must be safe to repeat.
        timeout_s: For all tries together, in seconds.

    Raises:
        Unavailable: Five tries failed, or the timeout was reached.
    """
    deadline = time.monotonic() + timeout_s
    for _ in range(_TRIES - 1):
        try:
            with domain_errors():
                return call(deadline - time.monotonic())
        except Unavailable:
            if time.monotonic() + _PAUSE_S >= deadline:
                raise
        time.sleep(_PAUSE_S)
    return call(deadline - time.monotonic())


def collect_pages(
    fetch: Callable[[int, str], tuple[Sequence[_Item], str]], limit: int
) -> list[_Item]:
    """Gathers the first items of a paged list.

    Args:
        fetch: Gets a page's items and the next page's token, for a page size and a token.
        limit: Most items to gather.
    """
    items: list[_Item] = []
    token = ""
    while len(items) < limit:
        page, token = fetch(min(limit - len(items), _LONGEST_PAGE), token)
        items += page
        if not token:
            break
    return items


@contextmanager
def _channel(service: Service, folder: Path | None) -> Iterator[grpc.Channel]:
    from shared.rpc.channel import open_sync_channel
    from shared.settings import ClientSettings

    address = service_address(service, folder)
    with open_sync_channel(address, ClientSettings()) as channel:
        try:
            with domain_errors():
                yield channel
        except Unavailable as error:
            raise Unavailable(f"the {service} at {address}: {error}") from error
