"""Conversion of image files to messages, and errors that name the file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from magface.v1 import image_pb2

from cli.output import messages
from shared.datasets.user_files import read_regular
from shared.errors import InvalidInput
from shared.rpc.errors import domain_errors

_CROP_SIZE: Final = (112, 112)
_MOST_BYTES: Final = 60 * 2**20
_MOST_NAMED: Final = 20


class AlignmentChoice(StrEnum):
    """How an image is aligned."""

    AUTO = "auto"
    ALIGNED = "aligned"
    DETECT = "detect"


AlignmentOption = Annotated[
    AlignmentChoice,
    typer.Option(
        "--alignment",
        help="aligned: a face crop; detect: a photo, of which the most prominent face is used; "
        "auto: aligned when the picture is 112x112, otherwise detect.",
    ),
]

PictureA = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, metavar="A", show_default=False)
]
PictureB = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, metavar="B", show_default=False)
]


def to_image(data: bytes, alignment: AlignmentChoice) -> image_pb2.Image:
    """Packs the bytes of an image file; the server validates them."""
    aligned = alignment is AlignmentChoice.ALIGNED or (
        alignment is AlignmentChoice.AUTO and _size(data) in (_CROP_SIZE, None)
    )
    way = image_pb2.ALIGNMENT_ALIGNED if aligned else image_pb2.ALIGNMENT_DETECT
    return image_pb2.Image(data=data, alignment=way)


def read_image(path: Path) -> bytes:
    """Reads an image file.

    Raises:
        InvalidInput: It is no regular file, or cannot be read or sent.
    """
    return read_regular(path, _MOST_BYTES)


def files_and_reasons(errors: Iterable[InvalidInput]) -> list[dict[str, str]]:
    """Makes the ``{"image": …, "why": …}`` of files that cannot be used from their errors."""
    return [{"image": one.field.removesuffix(".data"), "why": one.reason} for one in errors]


def report_left_out(errors: Sequence[InvalidInput]) -> list[dict[str, str]]:
    """Says on stderr which files are left out; returns all of them like `files_and_reasons`."""
    left_out = files_and_reasons(errors)
    lines = [f"{one['image']}: {one['why']}" for one in left_out[:_MOST_NAMED]]
    if len(left_out) > _MOST_NAMED:
        lines.append(f"{len(left_out) - _MOST_NAMED} more")
    for line in lines:
        messages.print(f"left out: {line}", markup=False, highlight=False)
    return left_out


@contextmanager
def naming_files(files: Mapping[str, str]) -> Iterator[None]:
    """Makes errors of calls in the block name the file instead of the field of the request.

    Args:
        files: Name of each file by the field it was sent in, e.g. ``images[3]``.
    """
    try:
        with domain_errors():
            yield
    except InvalidInput as error:
        if of_file := error_of_file(files, error.field, error.reason):
            raise of_file from error
        raise


def error_of_file(files: Mapping[str, str], field: str, reason: str) -> InvalidInput | None:
    """Makes an error name the file that was sent in a field, or in a message that contains it.

    Args:
        files: Name of each file by the field it was sent in.
        field: The field that is invalid.
        reason: What is wrong with it.

    Returns:
        The error; None if the field belongs to no file.
    """
    for sent, name in files.items():
        if f"{field}.".startswith(f"{sent}."):
            part = field.removeprefix(sent).removeprefix(".image").removeprefix(".")
            return InvalidInput(name, reason if part in ("", "data") else f"{part} {reason}")
    return None


def _size(data: bytes) -> tuple[int, int] | None:
    """Reads width and height from the file's header; None when it is not readable."""
    # Imported here, because it loads the decoders.
    from shared.model.image.decoding.inspector import read_header

    try:
        header = read_header(data)
    # The server says what is wrong with it.
    except Exception:
        return None
    return header.width, header.height
