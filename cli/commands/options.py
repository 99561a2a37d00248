"""Options that several commands share."""

import getpass
import os
from enum import StrEnum
from typing import Annotated

import typer

ByOption = Annotated[
    str, typer.Option("--by", help="Name of the requester, recorded; with a token, that of it.")
]
AnnotatorOption = Annotated[
    str, typer.Option("--annotator", help="Name of the annotator; with a token, that of it.")
]


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
    """Gives the name of the user who runs the command; empty if a token names them."""
    if os.environ.get("MAGFACE_TOKEN") or os.environ.get("MAGFACE_TOKEN_FILE"):
        return ""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
