"""What commands print: rich tables for people, one JSON object for programs."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Annotated, Any

import typer
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console()
# Progress and remarks go here, so that stdout is the result alone.
remarks = Console(stderr=True)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")
]


def emit(as_json: bool, result: Mapping[str, Any], readable: RenderableType) -> None:
    """Prints a command's result, once, in the form that was asked for."""
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        console.print(readable)


def table(*columns: str, rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    """Makes a table; None becomes an empty cell."""
    made = Table(*columns, title=title, title_justify="left")
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    return made


def facts(pairs: Mapping[str, object]) -> Table:
    """Makes a table of names and values."""
    made = Table(show_header=False, box=None)
    for name, value in pairs.items():
        made.add_row(f"[bold]{name}[/]", "" if value is None else str(value))
    return made


def counting_progress() -> Progress:
    """Makes a progress bar of things done and to do; shown on a terminal only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=remarks,
        transient=True,
        disable=not remarks.is_terminal,
    )


def to_plain(message: Message) -> dict[str, Any]:
    """Turns a message into what JSON can say.

    Unlike protobuf's own JSON, 64-bit integers stay numbers, enums lose their prefix
    (``JOB_STATE_QUEUED`` becomes ``queued``), and unset fields are there as None or empty.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_plain(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _plain(value, field)


def _plain(value: Any, field: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToDatetime(UTC).isoformat(timespec="milliseconds")
    if isinstance(value, Message):
        return to_plain(value)
    if field.enum_type is not None:
        return _enum(value, field)
    return value


def _enum(number: int, field: Any) -> str | None:
    names = field.enum_type.values_by_number
    prefix = names[0].name.removesuffix("UNSPECIFIED")
    return names[number].name.removeprefix(prefix).lower() if number else None
