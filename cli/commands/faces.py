"""``magface embed`` and ``magface verify``."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from magface.v1 import embedder_pb2, image_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub
from rich.console import RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, embedder
from cli.face_choice import (
    BoxAOption,
    BoxBOption,
    FaceAOption,
    FaceBOption,
    FaceChoice,
    OnSeveralChoice,
    OnSeveralOption,
    chosen_face,
    parse_box,
)
from cli.images import AlignmentChoice, AlignmentOption, PictureA, PictureB, naming_files
from cli.output import JsonOption, counting_progress, emit, facts, shortest, table, to_plain
from shared.errors import InvalidInput, MagFaceError, PreconditionFailed
from shared.rpc.errors import domain_errors

_IMAGES_A_CALL = 64
_BYTES_A_CALL = 32 * 2**20
_TRIES = 3

VersionOption = Annotated[
    str,
    typer.Option(
        "--model-version",
        metavar="VERSION",
        help="Version to use. It must be loaded: the serving one (the default) or "
        "the one that served before it.",
        show_default=False,
    ),
]


def embed(
    *,
    images: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, metavar="IMG...", show_default=False),
    ],
    alignment: AlignmentOption = AlignmentChoice.AUTO,
    on_several: OnSeveralOption = OnSeveralChoice.LARGEST,
    box: Annotated[
        image_pb2.Box | None,
        typer.Option(
            "--box",
            parser=parse_box,
            metavar="X,Y,WIDTH,HEIGHT",
            help="Use the detected face in this box, in pixels; for one image.",
            show_default=False,
        ),
    ] = None,
    face: Annotated[
        int | None,
        typer.Option(
            "--face",
            min=1,
            metavar="N",
            help="Use face N, as `magface faces` numbers them; for one image.",
            show_default=False,
        ),
    ] = None,
    model_version: VersionOption = "",
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute the embedding, magnitude and quality of each face."""
    choice = FaceChoice(on_several, box, face)
    if choice.wants_one and len(images) > 1:
        raise typer.BadParameter("--box and --face choose a face of one image; give one image")
    with embedder(folder) as stub:

        def pack(path: Path) -> image_pb2.Image:
            return chosen_face(stub, path, alignment, choice)

        model_version, done = _embed_with_one_version(stub, images, pack, model_version)
    result = {
        "model_version": model_version,
        "faces": [{"image": str(path), **_plain_face(face)} for path, face in done.faces],
        "refused": done.refused,
    }
    paths, faces = [path for path, _ in done.faces], [face for _, face in done.faces]
    emit(as_json, result, embeddings_table(paths, faces, model_version))
    if done.refused:
        first = done.refused[0]
        raise MagFaceError(
            f"{len(done.refused)} of {len(images)} images were refused; "
            f"the first is {first['image']}: {first['why']}"
        )


def embeddings_table(
    images: Sequence[Path], faces: Sequence[embedder_pb2.FaceEmbedding], model_version: str
) -> RenderableType:
    """Table of the embeddings of images, without their numbers."""
    rows = [
        [
            path,
            f"{face.magnitude:.2f}",
            f"{face.quality:.2f}",
            len(face.embedding) // 4,
            face.faces_found or None,
        ]
        for path, face in zip(images, faces, strict=True)
    ]
    title = f"by {model_version}; --json gives the embeddings"
    columns = ("image", "magnitude", "quality", "floats", "faces found")
    return table(*columns, rows=rows, title=title)


def verify(
    a: PictureA,
    b: PictureB,
    *,
    alignment: AlignmentOption = AlignmentChoice.AUTO,
    on_several: OnSeveralOption = OnSeveralChoice.LARGEST,
    box_a: BoxAOption = None,
    box_b: BoxBOption = None,
    face_a: FaceAOption = None,
    face_b: FaceBOption = None,
    minimum_quality: Annotated[
        float | None,
        typer.Option(
            "--minimum-quality",
            metavar="QUALITY",
            help="0..1: answer `unsure` if a face is of lower quality.",
            show_default=False,
        ),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="With --json: also give the embeddings.")
    ] = False,
    model_version: VersionOption = "",
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether two images show the same person."""
    choice_a = FaceChoice(on_several, box_a, face_a, ("--box-a", "--face-a"))
    choice_b = FaceChoice(on_several, box_b, face_b, ("--box-b", "--face-b"))
    with embedder(folder) as stub:
        request = embedder_pb2.VerifyRequest(
            a=embedder_pb2.VerifySide(image=chosen_face(stub, a, alignment, choice_a)),
            b=embedder_pb2.VerifySide(image=chosen_face(stub, b, alignment, choice_b)),
            model_version=model_version,
            minimum_quality=minimum_quality,
        )
        with naming_files({"a": str(a), "b": str(b)}):
            answer = stub.Verify(request, timeout=CALL_TIMEOUT_S)
    result = to_plain(answer)
    for side, face in (("face_a", answer.face_a), ("face_b", answer.face_b)):
        result[side] = _plain_face(face)
        if not embeddings:
            del result[side]["embedding"]
    readable = {
        "decision": result["decision"],
        **({"reason": answer.unsure_reason} if answer.unsure_reason else {}),
        "similarity": f"{answer.similarity:.3f} (same from {answer.threshold:.3f})",
        **match_rates(answer),
        "quality": f"{answer.face_a.quality:.2f} and {answer.face_b.quality:.2f}",
        **_several("A", answer.face_a, choice_a),
        **_several("B", answer.face_b, choice_b),
        "model_version": answer.model_version,
    }
    emit(as_json, result, facts(readable))


def match_rates(answer: embedder_pb2.VerifyResponse) -> dict[str, str]:
    """Tells how probable a match is and how many strangers pass, as far as it is measured."""
    rates = {}
    if answer.HasField("probability"):
        rates["probability"] = f"{answer.probability:.6g} that it is the same person"
    if answer.HasField("false_match_rate"):
        rates["strangers"] = f"{_one_in(answer.false_match_rate)} strangers scores as high"
    if answer.HasField("kept_fmr"):
        rates["kept FMR"] = (
            f"{answer.kept_fmr:.3g}: {_one_in(answer.kept_fmr)} strangers passes the threshold"
        )
    return rates


def _one_in(rate: float) -> str:
    return f"one in {1 / rate:,.0f}" if rate <= 0.1 else f"one in {1 / rate:.2g}"


def _several(side: str, face: embedder_pb2.FaceEmbedding, choice: FaceChoice) -> dict[str, str]:
    """Tells which of several faces was compared; nothing if there was one."""
    if face.faces_found < 2:
        return {}
    which = "the largest"
    if choice.number is not None:
        which = f"face {choice.number}"
    elif choice.box is not None:
        which = "the one in the box"
    return {f"faces in {side}": f"{face.faces_found} faces found, {which} compared"}


def _plain_face(face: embedder_pb2.FaceEmbedding) -> dict[str, Any]:
    import numpy as np

    embedding = np.frombuffer(face.embedding, "<f4")
    return {**to_plain(face), "embedding": [shortest(value) for value in embedding]}


@dataclass
class EmbeddedFiles:
    """Result of ``magface embed``.

    Attributes:
        faces: Each file with its face.
        refused: ``{"image": file, "why": …}`` of each file without one.
    """

    faces: list[tuple[Path, embedder_pb2.FaceEmbedding]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)


def _embed_with_one_version(
    stub: EmbedderServiceStub,
    paths: Sequence[Path],
    pack: Callable[[Path], image_pb2.Image],
    requested: str,
) -> tuple[str, EmbeddedFiles]:
    """Embeds all images with the requested version, or with the one that embeds the first batch.

    A refused image does not stop the others. Starts again with the serving version if that one is
    unloaded in between.
    """
    for tries_left in reversed(range(_TRIES)):
        done = EmbeddedFiles()
        version = requested
        try:
            with counting_progress() as progress:
                task = progress.add_task("embedding", total=len(paths))
                for names, batch in _batches(paths, pack, done):
                    version = _embed_batch(stub, names, batch, version, done)
                    progress.update(task, completed=len(done.faces) + len(done.refused))
        except PreconditionFailed:
            if requested or not done.faces or not tries_left:
                raise
        else:
            break
    return version, done


def _batches(
    paths: Sequence[Path], pack: Callable[[Path], image_pb2.Image], done: EmbeddedFiles
) -> Iterator[tuple[list[Path], list[image_pb2.Image]]]:
    names: list[Path] = []
    batch: list[image_pb2.Image] = []
    size = 0
    for path in paths:
        try:
            image = pack(path)
        except InvalidInput as error:
            done.refused.append({"image": str(path), "why": error.reason})
            continue
        if batch and (len(batch) == _IMAGES_A_CALL or size + len(image.data) > _BYTES_A_CALL):
            yield names, batch
            names, batch, size = [], [], 0
        names.append(path)
        batch.append(image)
        size += len(image.data)
    if batch:
        yield names, batch


def _embed_batch(
    stub: EmbedderServiceStub,
    names: list[Path],
    batch: list[image_pb2.Image],
    version: str,
    done: EmbeddedFiles,
) -> str:
    """Embeds a batch without the images that are refused; gives the version that embedded it."""
    while batch:
        request = embedder_pb2.EmbedRequest(images=batch, model_version=version)
        try:
            with domain_errors():
                answer = stub.Embed(request, timeout=CALL_TIMEOUT_S)
        except InvalidInput as error:
            place = _place(error.field, len(batch))
            if place is None:
                raise
            done.refused.append({"image": str(names.pop(place)), "why": error.reason})
            del batch[place]
        else:
            done.faces += zip(names, answer.faces, strict=True)
            return answer.model_version
    return version


def _place(name: str, count: int) -> int | None:
    """Reads the place of an image from the field of an error; None for other fields."""
    match = re.match(r"images\[(\d+)\]", name)
    return int(match[1]) if match and int(match[1]) < count else None
