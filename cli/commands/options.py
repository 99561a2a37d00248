"""Options that several commands share."""

import getpass
from enum import StrEnum
from typing import Annotated

import typer

ByOption = Annotated[str, typer.Option("--by", help="Name of the requester; recorded.")]


class ChannelOrderChoice(StrEnum):
    """The order in which a network expects its input channels."""

    BGR = "bgr"
    RGB = "rgb"


EpsOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.01,
        help="Epsilon of a file's BatchNorms; default: 2e-5, or 1e-5 for a file of arcface_torch.",
    ),
]


def user_name() -> str:
    """Gives the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
