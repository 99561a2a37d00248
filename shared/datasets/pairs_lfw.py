"""LFW's ``pairs.txt``: http://vis-www.cs.umass.edu/lfw/README.txt, section on pairs."""

import io
import os
from pathlib import Path

from shared.datasets.folder import IMAGE_SUFFIXES
from shared.datasets.pairs import PairSet, PairSetBuilder
from shared.datasets.user_files import read_text
from shared.errors import InvalidInput


def read_lfw_pairs(path: Path, images: Path | None = None) -> PairSet:
    """Read a ``pairs.txt`` with its folds.

    The first line is ``folds<TAB>pairs`` or, for one fold, ``pairs``. Each fold has that many
    genuine pairs (``name n1 n2``) and then as many impostor pairs (``name1 n1 name2 n2``). Names
    in lines that are separated by tabs may have blanks.

    Args:
        path: The file.
        images: Folder with ``name/name_0001.jpg`` and so on; the folder of the file when None.

    Raises:
        InvalidInput: If a line does not follow the format, compares an image with itself, or
            contradicts or repeats an earlier line; names the line. Whether its images exist shows
            when they are read.
    """
    lines = io.StringIO(read_text(path), newline=None)
    rows = [(number, _words(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise InvalidInput(str(path), "is empty")
    folds, per_class = _read_header(rows[0][1], f"{path}: line {rows[0][0]}")
    _check_count(len(rows) - 1, folds, per_class, path)
    folder = path.parent if images is None else images
    builder = PairSetBuilder(str(path))
    for position, (number, words) in enumerate(rows[1:]):
        field = f"{path}: line {number}"
        fold, within = divmod(position, 2 * per_class)
        genuine = within < per_class
        first, second = (
            builder.image(_image(folder, name, index), name)
            for name, index in _read_row(words, genuine, field)
        )
        builder.pair(f"line {number}", first, second, genuine, fold if folds > 1 else None)
    return builder.build()


def _words(line: str) -> list[str]:
    by_tabs = [word.strip() for word in line.split("\t") if word.strip()]
    # Lines that mix tabs and blanks are separated by both.
    return by_tabs if len(by_tabs) in (3, 4) else line.split()


def _read_header(words: list[str], field: str) -> tuple[int, int]:
    if len(words) in (1, 2) and all(word.isdecimal() and int(word) > 0 for word in words):
        numbers = [int(word) for word in words]
        return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
    raise InvalidInput(field, "must give the number of folds and of genuine pairs in each")


def _check_count(count: int, folds: int, per_class: int, path: Path) -> None:
    expected = folds * 2 * per_class
    if count != expected:
        raise InvalidInput(
            str(path),
            f"has {count} pairs; its first line announces {folds} x 2 x {per_class} = {expected}",
        )


def _read_row(words: list[str], genuine: bool, field: str) -> list[tuple[str, int]]:
    try:
        if genuine:
            name, first, second = words
            return [(name, int(first)), (name, int(second))]
        name, first, other, second = words
        return [(name, int(first)), (other, int(second))]
    except ValueError as error:
        form = "`name n1 n2` (a genuine pair)" if genuine else "`name1 n1 name2 n2` (an impostor)"
        raise InvalidInput(field, f"is {' '.join(words)!r}; {form} is expected here") from error


def _image(folder: Path, name: str, index: int) -> Path:
    """Return the path of an image; with the first suffix if there is none with any suffix."""
    paths = [folder / name / f"{name}_{index:04d}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((path for path in paths if os.path.lexists(path)), paths[0])
