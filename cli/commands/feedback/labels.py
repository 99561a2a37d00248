"""``magface feedback``: submit, import, export, count and list labels."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from magface.v1 import feedback_pb2
from rich.console import RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, collect_pages, feedback, new_key
from cli.commands.options import AnnotatorOption
from cli.face_choice import (
    BoxAOption,
    BoxBOption,
    FaceChoice,
    OnSeveralChoice,
    OnSeveralOption,
    face_in_box,
)
from cli.images import AlignmentChoice, AlignmentOption, naming_files
from cli.output import JsonOption, emit, facts, listed, short_time, table, to_plain
from cli.transfer.export import ExportFormat, export_pairs
from shared.errors import MagFaceError

_SHA256: Final = re.compile("[0-9a-fA-F]{64}")
_ImageA = Annotated[
    str,
    typer.Argument(metavar="A", show_default=False, help="A file, or the hash of a stored image."),
]
_ImageB = Annotated[
    str, typer.Argument(metavar="B", show_default=False, help="The same for the other image.")
]


class LabelChoice(StrEnum):
    """An annotator's label of a pair."""

    SAME = "same"
    DIFFERENT = "different"
    UNSURE = "unsure"


_LABELS: Final = {
    LabelChoice.SAME: feedback_pb2.LABEL_SAME,
    LabelChoice.DIFFERENT: feedback_pb2.LABEL_DIFFERENT,
    LabelChoice.UNSURE: feedback_pb2.LABEL_UNSURE,
}


def submit(
    *,
    a: _ImageA,
    b: _ImageB,
    label: Annotated[LabelChoice, typer.Option("--label", show_default=False)],
    annotator: AnnotatorOption = "",
    idempotency_key: Annotated[
        str, typer.Option(help="A repeated key stores nothing; random by default.")
    ] = "",
    alignment: AlignmentOption = AlignmentChoice.AUTO,
    on_several: OnSeveralOption = OnSeveralChoice.LARGEST,
    box_a: BoxAOption = None,
    box_b: BoxBOption = None,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store one label of two images, each a file or the SHA-256 of a stored image."""
    request = feedback_pb2.SubmitFeedbackRequest(
        image_a=_image_ref(a, alignment, FaceChoice(on_several, box_a)),
        image_b=_image_ref(b, alignment, FaceChoice(on_several, box_b)),
        label=_LABELS[label],
        annotator=annotator,
        idempotency_key=idempotency_key or new_key(),
    )
    names = {"image_a": a, "image_b": b}
    with feedback(folder) as stub, naming_files(names):
        result = to_plain(stub.SubmitFeedback(request, timeout=CALL_TIMEOUT_S))
    emit(as_json, result, facts(result))


def _image_ref(image: str, alignment: AlignmentChoice, choice: FaceChoice) -> feedback_pb2.ImageRef:
    """Packs a file, or the hash of a stored image; a file of that name comes first."""
    path = Path(image)
    if _SHA256.fullmatch(image) and not path.exists():
        if choice.box is not None:
            raise typer.BadParameter("a stored image has its box already; leave the option out")
        return feedback_pb2.ImageRef(sha256=image)
    return feedback_pb2.ImageRef(image=face_in_box(path, alignment, choice))


def fetch_image(
    sha256: Annotated[str, typer.Argument(show_default=False, help="Of the stored image.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="File to write.", show_default=False)],
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a stored image to a file."""
    from shared.files import open_atomic

    with feedback(folder) as stub:
        request = feedback_pb2.GetImageRequest(sha256=sha256)
        answer = stub.GetImage(request, timeout=CALL_TIMEOUT_S)
    with open_atomic(out) as file:
        file.write(answer.image.data)
    result = to_plain(answer)
    result |= result.pop("image")
    del result["data"]
    shown = result | {"stored_at": short_time(result["stored_at"]), "file": out}
    emit(as_json, {**result, "file": str(out)}, facts(shown))


def import_pairs(
    *,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            show_default=False,
            help="Pairs JSON, LFW's pairs.txt, or InsightFace's .bin.",
        ),
    ],
    annotator: AnnotatorOption = "",
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Base of relative paths; default: the file's folder."
        ),
    ] = None,
    alignment: AlignmentOption = AlignmentChoice.AUTO,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a label for each pair of a file; pairs imported before are skipped."""
    from cli.transfer.import_labels import import_pair_set
    from shared.datasets.pair_files import read_pair_file

    pair_set = read_pair_file(file, images)
    with feedback(folder) as stub:
        done = import_pair_set(stub, pair_set, annotator, alignment)
    counts = {"pairs": len(pair_set), "created": done.created, "known": done.known}
    otherwise = sorted(done.named_otherwise)
    shown = facts({**counts, **listed("named otherwise", otherwise)})
    emit(as_json, {**counts, "rejected": done.rejected, "named_otherwise": otherwise}, shown)
    if done.rejected:
        first = done.rejected[0]
        raise MagFaceError(
            f"{len(done.rejected)} of {len(pair_set)} pairs were refused, the others are stored; "
            f"the first is pairs[{first['pair']}]: {first['why']}"
        )


def export(
    out: Annotated[
        Path,
        typer.Option(
            file_okay=False, help="Folder to write the pairs and images/ to.", show_default=False
        ),
    ],
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="pairs.json, or pairs.parquet and images.parquet."),
    ] = ExportFormat.JSON,
    snapshot: Annotated[
        str, typer.Option(help="Snapshot of an earlier export, to repeat it.")
    ] = "",
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write every pair that has a consensus, with its images."""
    with feedback(folder) as stub:
        result = export_pairs(stub, out, snapshot, form)
    emit(as_json, result, facts(result))


def stats(folder: DirOption = None, as_json: JsonOption = False) -> None:
    """Show how many images, pairs and labels are stored."""
    with feedback(folder) as stub:
        answer = stub.GetStats(feedback_pb2.GetStatsRequest(), timeout=CALL_TIMEOUT_S)
    result = to_plain(answer)
    emit(as_json, result, facts(result))


def list_pairs(
    consensus: Annotated[
        LabelChoice | None, typer.Option(help="Only pairs with this consensus.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most pairs to show.")] = 100,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List pairs with their consensus and votes, newest first."""
    wanted = feedback_pb2.LABEL_UNSPECIFIED if consensus is None else _LABELS[consensus]
    with feedback(folder) as stub:

        def fetch(size: int, token: str) -> tuple[Sequence[feedback_pb2.Pair], str]:
            request = feedback_pb2.ListPairsRequest(
                consensus=wanted, page_size=size, page_token=token
            )
            page = stub.ListPairs(request, timeout=CALL_TIMEOUT_S)
            return page.pairs, page.next_page_token

        pairs = [to_plain(pair) for pair in collect_pages(fetch, limit)]
    emit(as_json, {"pairs": pairs}, pairs_table(pairs))


def pairs_table(pairs: Sequence[dict[str, Any]]) -> RenderableType:
    """Shows a list of pairs with their consensus and votes."""
    columns = ("pair_id", "consensus", "confidence", "same/different/unsure", "labelled")
    rows = [
        [
            pair["pair_id"],
            pair["consensus"],
            f"{pair['confidence']:.2f}",
            f"{pair['votes_same']}/{pair['votes_different']}/{pair['votes_unsure']}",
            short_time(pair["last_labelled"]),
            pair["sha256_a"],
            pair["sha256_b"],
        ]
        for pair in pairs
    ]
    return table(*columns, "image_a", "image_b", rows=rows)
