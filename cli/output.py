"""What commands print: rich tables for people, one JSON object for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

# A pipe has no width; wide enough that nothing in it is broken.
console = Console(width=None if sys.stdout.isatty() else 200)
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
    """Makes a table; None becomes an empty cell, and only `Text` cells carry style."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def facts(pairs: Mapping[str, object]) -> Table:
    """Makes a table of names and values."""
    made = Table(show_header=False, box=None)
    for name, value in pairs.items():
        made.add_row(Text(name, style="bold"), _cell(value))
    return made


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    return Text("" if value is None else str(value))


def short_time(moment: str | None) -> str:
    """Shows a time of `to_plain` in the reader's own time zone, to the second."""
    if moment is None:
        return ""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"


def in_words(name: str | None) -> str:
    """Shows an enum's value of `to_plain`: ``loading_model`` becomes ``loading model``."""
    return (name or "").replace("_", " ")


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
        of_values = field.message_type.fields_by_name["value"]
        return {key: _plain(item, of_values) for key, item in value.items()}
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
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return shortest(value)
    return value


def shortest(value: float) -> float:
    """Rounds what came from a float32 to as few digits as tell it from its neighbours."""
    import numpy as np

    return float(str(np.float32(value)))


def _enum(number: int, field: Any) -> str | None:
    names = field.enum_type.values_by_number
    if number not in names:  # of a newer contract
        return str(number)
    prefix = names[0].name.removesuffix("UNSPECIFIED")
    return names[number].name.removeprefix(prefix).lower() if number else None
