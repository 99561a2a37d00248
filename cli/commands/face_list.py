"""``magface faces``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from magface.v1 import embedder_pb2
from rich.console import RenderableType

from cli.clients import DirOption, embedder
from cli.face_choice import detect_faces
from cli.output import JsonOption, counting_progress, emit, table, to_plain
from shared.errors import InvalidInput, MagFaceError


def faces(
    photos: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, metavar="PHOTO...", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE",
            help="Picture to write, with the faces and their numbers; a folder for several photos.",
            show_default=False,
        ),
    ] = None,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the faces of photographs; verify and embed can choose one by its number or box."""
    pictures = dict(zip(photos, _pictures(photos, out), strict=True)) if out else {}
    listed = []
    failed: list[str] = []
    with embedder(folder) as stub, counting_progress() as progress:
        for photo in progress.track(photos, description="detecting"):
            try:
                answer = detect_faces(stub, photo)
                if photo in pictures:
                    _draw(photo, answer, pictures[photo])
                listed.append(_plain(photo, answer))
            except InvalidInput as error:
                failed.append(str(error))
                listed.append({"image": str(photo), "error": str(error)})
    emit(as_json, {"photos": listed}, faces_table(listed))
    if failed:
        raise MagFaceError(
            f"{len(failed)} of {len(photos)} photographs failed; the first is {failed[0]}"
        )


def faces_table(photos: Sequence[dict[str, Any]]) -> RenderableType:
    """Table of the faces of photographs, in the form that the command prints as JSON."""
    rows: list[list[object]] = []
    for photo in photos:
        name = photo["image"]
        if "error" in photo:
            rows.append([name, "", "", "", photo["error"].removeprefix(f"{name}: ")])
        elif not photo["faces"]:
            rows.append([name, "none", "", "", ""])
        for face in photo.get("faces", ()):
            box = ",".join(f"{face['box'][side]:.0f}" for side in ("x", "y", "width", "height"))
            points = " ".join(f"{point['x']:.0f},{point['y']:.0f}" for point in face["landmarks"])
            rows.append([name, face["number"], box, f"{face['confidence']:.2f}", points])
    columns = ("image", "face", "box", "confidence", "landmarks")
    return table(*columns, rows=rows, text=("landmarks",))


def _plain(photo: Path, answer: embedder_pb2.DetectFacesResponse) -> dict[str, Any]:
    numbered = [{"number": n, **to_plain(face)} for n, face in enumerate(answer.faces, 1)]
    return {
        "image": str(photo),
        "width": answer.width,
        "height": answer.height,
        "faces": numbered,
    }


def _draw(photo: Path, answer: embedder_pb2.DetectFacesResponse, picture: Path) -> None:
    from cli.face_overlay import write_overlay

    picture.parent.mkdir(parents=True, exist_ok=True)
    write_overlay(photo, answer.faces, picture)


def _pictures(photos: Sequence[Path], out: Path) -> list[Path]:
    """Names the pictures to write; photographs of the same name get a number."""
    if out.is_dir() or len(photos) > 1:
        if out.suffix and not out.is_dir():
            raise typer.BadParameter(
                f"{out} is one picture for {len(photos)} photographs; name a folder",
                param_hint="--out",
            )
        names: dict[str, int] = {}
        pictures = []
        for photo in photos:
            names[photo.stem] = times = names.get(photo.stem, 0) + 1
            pictures.append(out / f"{photo.stem}{f'-{times}' if times > 1 else ''}.png")
        return pictures
    return [out]
