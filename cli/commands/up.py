"""``magface up``: the embedded stack in the foreground."""

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from cli.clients import DEFAULT_DIR
from cli.output import JsonOption, console, emit, facts, messages
from shared.files import PRIVATE


def up(
    folder: Annotated[
        Path,
        typer.Option("--dir", file_okay=False, help="Folder for all data."),
    ] = DEFAULT_DIR,
    embedders: Annotated[int, typer.Option(min=1, max=64, help="Number of embedders.")] = 1,
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=64000,
            help="Port of the embedder; feedback, trainer and further embedders have the next "
            "ones, and the metrics of each are 1000 above. 0: free ports, kept for the folder.",
        ),
    ] = 50051,
    as_json: JsonOption = False,
) -> None:
    """Start Postgres, an S3 server and all services, and keep them running until Ctrl-C."""
    from deploy.local.stack import Stack
    from deploy.local.supervisor import StopRequested

    os.umask(PRIVATE)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    output = messages if as_json else console

    def report(line: str) -> None:
        output.print(line, markup=False, highlight=False)

    stack = Stack(folder, embedders=embedders, port=port, report=report, stop=stop)
    try:
        endpoints = stack.start()
    except StopRequested:
        return
    try:
        readable = {
            "embedder": endpoints.embedder,
            "feedback": endpoints.feedback,
            "trainer": endpoints.trainer,
            "s3": endpoints.s3.endpoint,
            "metrics": ", ".join(f"{name} {at}" for name, at in endpoints.metrics.items()),
            "files": f"{stack.folder}/endpoints.json, {stack.folder}/logs",
        }
        emit(as_json, endpoints.without_secrets(), facts(readable))
        report("Everything is ready; Ctrl-C stops it.")
        stack.watch()
    finally:
        stack.stop()
