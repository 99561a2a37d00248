"""Output of the commands: tables for people, one JSON object for programs."""

import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

# Control characters but tab and line feed, line and paragraph separators, surrogates, and the marks
# that turn the direction of the text after them.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class _SafeConsole(Console):
    """Shows characters that could change the terminal, for instance in a name, as U+FFFD."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else _UNSAFE.sub("\ufffd", text), style, control)


# A pipe has no width. There, each row of a table is one line, unless COLUMNS sets a width.
_PIPE_WIDTH: Final = 10_000
console = _SafeConsole(
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
)
# Progress and messages go to stderr; stdout has only the result.
messages = _SafeConsole(stderr=True)

_GAP: Final = 2
_SHORTEST_TEXT: Final = 24
_LISTED: Final = 5

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")
]


def emit(as_json: bool, result: Mapping[str, Any], readable: RenderableType) -> None:
    """Prints the result of a command, as JSON or as text."""
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        # A word that is longer than the line is not cut.
        console.print(readable, crop=False)


def complain(text: str) -> None:
    """Prints why a command failed."""
    messages.print(f"magface: {text}", markup=False, highlight=False, soft_wrap=True)


def table(
    *columns: str,
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    text: Collection[str] = (),
) -> RenderableType:
    """Makes a table in which ids, versions, hashes and figures are never broken.

    Columns that do not fit the width are printed below their row, each with its name.

    Args:
        columns: Titles; the most important first, free text last.
        rows: A value for each column; None becomes an empty cell, and only `Text` carries style.
        title: Printed above.
        text: The columns of free text, which is wrapped between words.
    """
    return _Table(columns, [[_cell(value) for value in row] for row in rows], title, text)


def facts(pairs: Mapping[str, object]) -> RenderableType:
    """Makes a list of names and values, wrapped between words only."""
    return _Facts({name: _cell(value) for name, value in pairs.items()})


def listed(name: str, items: Sequence[str]) -> dict[str, str]:
    """Makes a row of `facts` with the number of items and the first of them; none without any."""
    if not items:
        return {}
    rest = "; …" if len(items) > _LISTED else ""
    return {name: f"{len(items)}: {'; '.join(items[:_LISTED])}{rest}"}


@dataclass(frozen=True)
class _Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[Text]]
    title: str | None
    text: Collection[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            title = Text(self.title, style="italic")
            yield from map(_unbroken, _wrapped(title, console, options.max_width))
        beside, below = self._layout(options.max_width)
        yield _unbroken(self._line([Text(name, style="bold") for name in self.columns], beside))
        for row in self.rows:
            yield from self._row(row, beside, below, console, options.max_width)

    def _row(
        self,
        row: Sequence[Text],
        beside: Sequence[int],
        below: Sequence[int],
        console: Console,
        width: int,
    ) -> Iterator[Text]:
        *first, last = beside
        if self.columns[last] in self.text and first:
            start = sum(self._width(column) + _GAP for column in first)
            head = self._line(row, first)
            for number, line in enumerate(_wrapped(row[last], console, width - start) or [Text()]):
                lead = head if number == 0 else Text()
                yield _unbroken(Text.assemble(_padded(lead, start), line))
        else:
            yield _unbroken(self._line(row, beside))
        yield from self._below(row, below, console, width)

    def _below(
        self, row: Sequence[Text], columns: Sequence[int], console: Console, width: int
    ) -> Iterator[Text]:
        line = Text()
        for column in columns:
            if not row[column].plain:
                continue
            item = Text.assemble((self.columns[column], "dim"), " ", row[column])
            if self.columns[column] in self.text:
                if line:
                    yield _indented(line)
                    line = Text()
                yield from (_indented(part) for part in _wrapped(item, console, width - _GAP))
            elif line and line.cell_len + 2 * _GAP + item.cell_len > width:
                yield _indented(line)
                line = item
            else:
                line = Text(" " * _GAP).join([line, item]) if line else item
        if line:
            yield _indented(line)

    def _layout(self, width: int) -> tuple[list[int], list[int]]:
        """Divides the columns into those beside each other and those below their row."""
        beside: list[int] = []
        used = -_GAP
        for column, name in enumerate(self.columns):
            needed = self._width(column)
            if name in self.text:
                words = (word for row in self.rows for word in row[column].plain.split())
                needed = min(needed, max(_SHORTEST_TEXT, *map(cell_len, (name, *words))))
                if len(beside) < column or column + 1 < len(self.columns):
                    continue
            if not beside or used + _GAP + needed <= width:
                beside.append(column)
                used += _GAP + needed
        return beside, [column for column in range(len(self.columns)) if column not in beside]

    def _line(self, cells: Sequence[Text], columns: Sequence[int]) -> Text:
        padded = [_padded(cells[column], self._width(column)) for column in columns]
        line = Text(" " * _GAP).join(padded)
        line.rstrip()
        return line

    def _width(self, column: int) -> int:
        lengths = (row[column].cell_len for row in self.rows)
        return max(cell_len(self.columns[column]), *lengths, 0)


@dataclass(frozen=True)
class _Facts:
    values: Mapping[str, Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        start = max(map(cell_len, self.values), default=0) + _GAP
        for name, value in self.values.items():
            head = Text(name, style="bold")
            room = options.max_width - start
            if any(cell_len(word) > room for word in value.plain.split()):
                yield _unbroken(head)
                lines = _wrapped(value, console, options.max_width - _GAP)
                yield from (_indented(line) for line in lines)
                continue
            for number, line in enumerate(_wrapped(value, console, room) or [Text()]):
                lead = head if number == 0 else Text()
                yield _unbroken(Text.assemble(_padded(lead, start), line))


def _wrapped(text: Text, console: Console, width: int) -> list[Text]:
    """Breaks a text into lines between words; a word longer than the width stays whole."""
    longest = max(map(cell_len, text.plain.split()), default=1)
    lines = list(text.wrap(console, max(width, longest)))
    for line in lines:
        line.rstrip()
    return lines


def _padded(text: Text, width: int) -> Text:
    return Text.assemble(text, " " * (width - text.cell_len))


def _indented(line: Text) -> Text:
    return _unbroken(Text.assemble(" " * _GAP, line))


def _unbroken(line: Text) -> Text:
    line.no_wrap = True
    line.overflow = "ignore"
    line.rstrip()
    return line


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    return Text("" if value is None else str(value))


def short_time(moment: str | None) -> str:
    """Shows a time of `to_plain` in the reader's own time zone, which it names, to the second."""
    if moment is None:
        return ""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def in_words(name: str | None) -> str:
    """Shows an enum's value of `to_plain`: ``loading_model`` becomes ``loading model``."""
    return (name or "").replace("_", " ")


def counting_progress() -> Progress:
    """Makes a progress bar that counts items; shown on a terminal only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    )


def to_plain(message: Message) -> dict[str, Any]:
    """Converts a message to values that JSON can hold.

    Unlike protobuf's own JSON, 64-bit integers stay numbers, enums lose their prefix
    (``JOB_STATE_QUEUED`` becomes ``queued``), and unset fields are None or empty.
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
    """Rounds a float32 to the fewest digits that identify it."""
    import numpy as np

    return float(str(np.float32(value)))


def _enum(number: int, field: Any) -> str | None:
    names = field.enum_type.values_by_number
    if number not in names:  # from a newer version of the contract
        return str(number)
    prefix = names[0].name.removesuffix("UNSPECIFIED")
    return names[number].name.removeprefix(prefix).lower() if number else None
