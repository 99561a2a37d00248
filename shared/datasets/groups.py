"""Groups of people, such as by skin tone or age: ``groups.csv`` in a folder of people."""

import csv
import io
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from shared.datasets.user_files import read_text
from shared.errors import InvalidInput
from shared.validation import TextKind, TextRule, normal_name

GROUPS_FILE: Final = "groups.csv"
_COLUMNS: Final = ("identity", "group")
_DELIMITERS: Final = ",;\t"
_GROUP_NAME: Final = TextRule(TextKind.PERSON, 64, required=True)
_MOST_NAMED: Final = 3


class FoundGroups(NamedTuple):
    """The groups of people.

    Attributes:
        groups: The group by identity. People who are not in it are in no group.
        unusable: Rows of identities that do not exist, as one error that names the file.
    """

    groups: dict[str, str]
    unusable: list[InvalidInput]


def folder_groups(folder: Path, identities: Collection[str]) -> FoundGroups:
    """Read the ``groups.csv`` of a folder of people, if it has one; see `read_groups`.

    Args:
        folder: The folder.
        identities: The identities in it, as `read_identities` names them.
    """
    path = folder / GROUPS_FILE
    # A link to nothing is an error, not a folder without groups.
    return read_groups(path, identities) if os.path.lexists(path) else FoundGroups({}, [])


def read_groups(path: Path, identities: Collection[str]) -> FoundGroups:
    """Read the groups of people from a CSV file.

    The first line names the columns; ``identity`` and ``group`` must be among them. The columns
    are separated by commas, semicolons or tabs, whichever the first line has. Fields may be
    quoted. Blank lines do not count. Names are normalised, like those of folders.

    Args:
        path: The file.
        identities: Normalised names of the people who exist.

    Raises:
        InvalidInput: If the file cannot be read, or a row has no identity, no group or another
            number of fields than the first line, or puts an identity into a second group. Names
            the file and the line.
    """
    groups: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in _rows(path):
        where = f"{path}: line {line}"
        identity = normal_name(row["identity"])
        if not identity:
            raise InvalidInput(where, "has no identity; the name of a person's folder is needed")
        group = _read_group(where, row["group"])
        if groups.setdefault(identity, group) != group:
            raise InvalidInput(
                where,
                f"puts {identity!r} into the group {group!r}, but line {lines[identity]} into "
                f"{groups[identity]!r}; a person is in one group",
            )
        lines.setdefault(identity, line)
    known = set(identities)
    unknown = [name for name in groups if name not in known]
    return FoundGroups(
        {name: group for name, group in groups.items() if name in known},
        [_unknown_error(path, unknown, lines)] if unknown else [],
    )


def write_groups(path: Path, groups: Mapping[str, str]) -> None:
    """Write the group of each identity as a CSV file in UTF-8."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(groups.items())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows with the line that each begins on; the values by column."""
    rows = _fields(path, read_text(path))
    first, header = next(rows, (1, []))
    columns = [" ".join(name.split()).casefold() for name in header]
    for name in _COLUMNS:
        if columns.count(name) != 1:
            raise InvalidInput(
                f"{path}: line {first}",
                f"is {', '.join(header)[:80]!r}; the first line must name the columns, "
                "identity,group",
            )
    for line, fields in rows:
        if len(fields) != len(columns):
            raise InvalidInput(
                f"{path}: line {line}",
                f"has {len(fields)} fields; {', '.join(columns)} are needed. A field with the "
                "separator in it must be quoted",
            )
        yield line, dict(zip(columns, fields, strict=True))


def _fields(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row that is not blank, with the line that it begins on."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InvalidInput(
                f"{path}: line {line}", f"is no row of a CSV file: {error}"
            ) from error
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield line, fields


def _read_group(where: str, text: str) -> str:
    if not text.strip():
        raise InvalidInput(where, "has no group; leave out the rows of people in no group")
    return _GROUP_NAME.check(f"{where}: group", text)


def _unknown_error(path: Path, unknown: list[str], lines: Mapping[str, int]) -> InvalidInput:
    named = ", ".join(f"{name!r} (line {lines[name]})" for name in unknown[:_MOST_NAMED])
    more = len(unknown) - _MOST_NAMED
    return InvalidInput(
        str(path),
        f"names people without images here: {named}" + (f" and {more} more" if more > 0 else ""),
    )
