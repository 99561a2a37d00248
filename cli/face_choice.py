"""Options that choose one of several faces of a photograph, by a box or by its number."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from magface.v1 import embedder_pb2, image_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from cli.clients import CALL_TIMEOUT_S
from cli.images import AlignmentChoice, naming_files, read_image, to_image
from shared.errors import InvalidInput

_BOX_FORM: Final = "X,Y,WIDTH,HEIGHT"
_DETECT: Final = image_pb2.ALIGNMENT_DETECT


class OnSeveralChoice(StrEnum):
    """What to do with a photograph of several faces."""

    LARGEST = "largest"
    REFUSE = "refuse"


def parse_box(text: str) -> image_pb2.Box:
    """Parses the box of an option, e.g. ``67,133,149,184``."""
    try:
        x, y, width, height = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not {_BOX_FORM} in pixels") from None
    return image_pb2.Box(x=x, y=y, width=width, height=height)


OnSeveralOption = Annotated[
    OnSeveralChoice,
    typer.Option(
        "--on-several",
        help="largest: use the most prominent of several detected faces; refuse: fail instead. "
        "`magface faces` lists them.",
    ),
]
BoxAOption = Annotated[
    image_pb2.Box | None,
    typer.Option(
        "--box-a",
        parser=parse_box,
        metavar=_BOX_FORM,
        help="Use the detected face of A in this box, in pixels.",
        show_default=False,
    ),
]
BoxBOption = Annotated[
    image_pb2.Box | None,
    typer.Option(
        "--box-b",
        parser=parse_box,
        metavar=_BOX_FORM,
        help="The same for B.",
        show_default=False,
    ),
]
FaceAOption = Annotated[
    int | None,
    typer.Option(
        "--face-a",
        min=1,
        metavar="N",
        help="Use face N of A, as `magface faces A` numbers them.",
        show_default=False,
    ),
]
FaceBOption = Annotated[
    int | None,
    typer.Option("--face-b", min=1, metavar="N", help="The same for B.", show_default=False),
]


@dataclass(frozen=True)
class FaceChoice:
    """Which face of a photograph is meant.

    Attributes:
        on_several: What to do if the photograph shows several and neither `box` nor `number` is
            given.
        box: Takes the face in it.
        number: Takes the face of this number, from 1.
        options: Names of the options for box and number, for errors.

    Raises:
        BadParameter: If both box and number are given.
    """

    on_several: OnSeveralChoice = OnSeveralChoice.LARGEST
    box: image_pb2.Box | None = None
    number: int | None = None
    options: tuple[str, str] = ("--box", "--face")

    def __post_init__(self) -> None:
        if self.box is not None and self.number is not None:
            raise typer.BadParameter(f"give {' or '.join(self.options)}, not both")

    @property
    def wants_one(self) -> bool:
        """Whether a box or a number is given."""
        return self.box is not None or self.number is not None


def chosen_face(
    stub: EmbedderServiceStub, path: Path, alignment: AlignmentChoice, choice: FaceChoice
) -> image_pb2.Image:
    """Packs a photograph with the chosen face.

    Args:
        stub: Finds the box of a face that is chosen by its number.
        path: The photograph.
        alignment: As the caller gave it; a chosen face is always detected.
        choice: Which face is meant.

    Raises:
        BadParameter: If a face is chosen in a photograph that is said to be aligned.
        InvalidInput: If there is no face of this number.
    """
    if choice.number is not None:
        box = _box_of(detect_faces(stub, path), choice.number, path)
        choice = replace(choice, box=box, number=None)
    return face_in_box(path, alignment, choice)


def face_in_box(path: Path, alignment: AlignmentChoice, choice: FaceChoice) -> image_pb2.Image:
    """Packs a photograph with a face that is chosen by its box, or not at all.

    Raises:
        BadParameter: If a face is chosen in a photograph that is said to be aligned.
    """
    if choice.box is not None and alignment is AlignmentChoice.ALIGNED:
        raise typer.BadParameter(
            f"{' and '.join(choice.options)} choose a detected face; leave --alignment out"
        )
    detected = choice.box is not None
    image = to_image(read_image(path), AlignmentChoice.DETECT if detected else alignment)
    if choice.on_several is OnSeveralChoice.REFUSE and image.alignment == _DETECT:
        image.on_several = image_pb2.ON_SEVERAL_REFUSE
    if choice.box is not None:
        image.box.CopyFrom(choice.box)
    return image


def detect_faces(stub: EmbedderServiceStub, path: Path) -> embedder_pb2.DetectFacesResponse:
    """Lists the faces of a photograph; errors name the file."""
    request = embedder_pb2.DetectFacesRequest(image=image_pb2.Image(data=read_image(path)))
    with naming_files({"image": str(path)}):
        return stub.DetectFaces(request, timeout=CALL_TIMEOUT_S)


def _box_of(answer: embedder_pb2.DetectFacesResponse, number: int, path: Path) -> image_pb2.Box:
    found = len(answer.faces)
    if number > found:
        raise InvalidInput(
            str(path), f"shows {found or 'no'} face{'s' * (found != 1)}; there is no face {number}"
        )
    return answer.faces[number - 1].box
