"""``magface serve``: one service in the foreground, on your own Postgres and S3 server."""

import os
import sys
from typing import Annotated, Final

import typer

from cli.clients import Service

# Where the services listen that `magface up` starts.
_PORTS: Final[dict[Service, int]] = {"embedder": 50051, "feedback": 50052, "trainer": 50053}
_HOST: Final = "127.0.0.1"


def serve(
    service: Annotated[Service, typer.Argument(show_default=False)],
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="MAGFACE_LISTEN; by default port 50051 (embedder), 50052 (feedback) or 50053 "
            "(trainer) of 127.0.0.1.",
            show_default=False,
        ),
    ] = None,
    *,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Let other machines call without TLS and tokens (MAGFACE_INSECURE)."
        ),
    ] = False,
) -> None:
    """Run one service until Ctrl-C, on your own Postgres and S3 server.

    Settings are read from the environment and from .env: MAGFACE_DATABASE_URL (not for the
    embedder), MAGFACE_S3_ENDPOINT, MAGFACE_S3_ACCESS_KEY, MAGFACE_S3_SECRET_KEY and others. The
    other services are expected at their ports of 127.0.0.1, unless MAGFACE_EMBEDDER_ADDRESS or
    MAGFACE_FEEDBACK_ADDRESS is set.
    """
    from shared.settings import given_variables

    given = given_variables()
    defaults = {"MAGFACE_LISTEN": f"{_HOST}:{_PORTS[service]}"} | {
        f"MAGFACE_{name.upper()}_ADDRESS": f"{_HOST}:{port}" for name, port in _PORTS.items()
    }
    added = {name: value for name, value in defaults.items() if name not in given}
    if listen is not None:
        added["MAGFACE_LISTEN"] = listen
    if insecure:
        added["MAGFACE_INSECURE"] = "true"
    program = [sys.executable, "-P", "-m", f"services.{service}"]
    # In place of this process, so that signals and the exit status are those of the service.
    os.execve(program[0], program, os.environ | added)  # noqa: S606
