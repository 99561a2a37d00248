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


def user_name() -> str:
    """Gives the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
