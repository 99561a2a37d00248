"""``magface feedback``: import images to the pool, lease pairs, list annotators."""

import time
from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from magface.v1 import feedback_pb2
from magface.v1.feedback_pb2_grpc import FeedbackServiceStub
from rich.console import RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, feedback, new_key, repeat_if_cut
from cli.commands.options import AnnotatorOption
from cli.images import (
    AlignmentChoice,
    AlignmentOption,
    files_and_reasons,
    read_image,
    to_image,
)
from cli.output import (
    JsonOption,
    counting_progress,
    emit,
    facts,
    listed,
    messages,
    short_time,
    table,
    to_plain,
)
from shared.errors import InvalidInput, MagFaceError

# Short enough to send a stream again after a lost connection.
_IMAGES_A_STREAM: Final = 500
_STREAM_TIMEOUT_S: Final = 600.0
_POLL_S: Final = 1.0


class StrategyChoice(StrEnum):
    """How pairs to label are chosen."""

    MIX = "mix"
    UNCERTAINTY = "uncertainty"
    DISAGREEMENT = "disagreement"
    HARD = "hard"
    RANDOM = "random"


_STRATEGIES: Final = {
    StrategyChoice.MIX: feedback_pb2.STRATEGY_UNSPECIFIED,
    StrategyChoice.UNCERTAINTY: feedback_pb2.STRATEGY_UNCERTAINTY,
    StrategyChoice.DISAGREEMENT: feedback_pb2.STRATEGY_DISAGREEMENT,
    StrategyChoice.HARD: feedback_pb2.STRATEGY_HARD,
    StrategyChoice.RANDOM: feedback_pb2.STRATEGY_RANDOM,
}


def import_images(
    images: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            show_default=False,
            help="Folder of images; with --identities a folder of images per person. Folders "
            "in it count, also by links; hidden files and folders do not.",
        ),
    ],
    identities: Annotated[
        bool, typer.Option("--identities", help="Each subfolder has the name of a person.")
    ] = False,
    alignment: AlignmentOption = AlignmentChoice.AUTO,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add images to the pool from which pairs are chosen; known images are skipped."""
    files, unusable = _identified(images) if identities else _unidentified(images)
    created = known = 0
    rejected = files_and_reasons(unusable)
    otherwise: list[dict[str, Any]] = []
    duplicates: list[dict[str, Any]] = []
    with feedback(folder) as stub, counting_progress() as progress:
        task = progress.add_task("importing", total=len(files))
        for first in range(0, len(files), _IMAGES_A_STREAM):
            part = files[first : first + _IMAGES_A_STREAM]
            answer, refused, others, near = repeat_if_cut(
                partial(_send, stub, part, alignment), _STREAM_TIMEOUT_S
            )
            created, known = created + answer.created, known + answer.known
            rejected += refused
            otherwise += others
            duplicates += near
            progress.advance(task, len(part))
    total = len(files) + len(unusable)
    result = {"images": total, "created": created, "known": known}
    lists = {
        "rejected": rejected,
        "named_otherwise": otherwise,
        "near_duplicates": duplicates,
    }
    also = [f"{one['image']}: {', '.join(one['names'])}" for one in otherwise]
    like = [f"{one['image']}: {one['sha256']}" for one in duplicates]
    shown = {**result, **listed("named otherwise", also), **listed("near-identical", like)}
    emit(as_json, {**result, **lists}, facts(shown))
    if rejected:
        raise MagFaceError(
            f"{len(rejected)} of {total} images were rejected, the others are stored; "
            f"the first is {rejected[0]['image']}: {rejected[0]['why']}"
        )


def next_pairs(
    *,
    annotator: AnnotatorOption = "",
    count: Annotated[int, typer.Option(min=1, max=100, help="Number of pairs.")] = 10,
    strategy: Annotated[
        StrategyChoice, typer.Option(help="How they are chosen.")
    ] = StrategyChoice.MIX,
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="How long to wait while no pair is ready yet."
        ),
    ] = 30.0,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lease pairs that are worth labelling; nobody else gets them until the lease ends."""
    request = feedback_pb2.NextPairsRequest(
        annotator=annotator, count=count, strategy=_STRATEGIES[strategy]
    )
    until = time.monotonic() + wait_s
    with feedback(folder) as stub:
        answer = _next_pairs(stub, request)
        if _prepares(answer) and wait_s:
            messages.print(f"no pair is ready yet; waiting for at most {wait_s:g} s")
        while _prepares(answer) and time.monotonic() < until:
            time.sleep(_POLL_S)
            answer = _next_pairs(stub, request)
    result = to_plain(answer)
    emit(as_json, result, leases_table(result))


def _prepares(answer: feedback_pb2.NextPairsResponse) -> bool:
    """Tells whether more pairs may come: the service prepares them in the background."""
    return not answer.pairs and not answer.HasField("held_until")


def _next_pairs(
    stub: FeedbackServiceStub, request: feedback_pb2.NextPairsRequest
) -> feedback_pb2.NextPairsResponse:
    # A repeated key would give the first answer again.
    request.idempotency_key = new_key()
    return stub.NextPairs(request, timeout=CALL_TIMEOUT_S)


def leases_table(result: dict[str, Any]) -> RenderableType:
    """Shows leased pairs and the end of their leases."""
    rows = [
        [short_time(pair["expires_at"]), pair["sha256_a"], pair["sha256_b"]]
        for pair in result["pairs"]
    ]
    return table("leased until", "image_a", "image_b", rows=rows, title=result["note"] or None)


def list_annotators(folder: DirOption = None, as_json: JsonOption = False) -> None:
    """Show how annotators answered gold pairs, whose true label is known."""
    with feedback(folder) as stub:
        request = feedback_pb2.ListAnnotatorsRequest()
        result = to_plain(stub.ListAnnotators(request, timeout=CALL_TIMEOUT_S))
    emit(as_json, result, annotators_table(result))


def annotators_table(result: dict[str, Any]) -> RenderableType:
    """Shows how annotators answered gold pairs."""
    rows = [
        [
            one["annotator"],
            one["gold_answers"],
            f"{one['gold_right'] / one['gold_answers']:.0%}" if one["gold_answers"] else None,
        ]
        for one in result["annotators"]
    ]
    return table("annotator", "gold pairs answered", "right", rows=rows)


def _send(
    stub: FeedbackServiceStub,
    files: list[tuple[Path, str]],
    alignment: AlignmentChoice,
    timeout_s: float,
) -> tuple[
    feedback_pb2.ImportImagesResponse,
    list[dict[str, str]],
    list[dict[str, Any]],
    list[dict[str, Any]],
]:
    """Sends the files that can be read.

    Returns:
        The answer, the refused files, those with other names, and near-identical ones.
    """
    sent: list[Path] = []
    refused: list[dict[str, str]] = []
    requests = _requests(files, alignment, sent, refused)
    answer = stub.ImportImages(requests, timeout=timeout_s)
    refused += [{"image": str(sent[one.place]), "why": one.why} for one in answer.rejections]
    others = [
        {"image": str(sent[one.place]), "names": list(one.identities)} for one in answer.other_names
    ]
    near = [{"image": str(sent[one.place]), "sha256": one.sha256} for one in answer.near_duplicates]
    return answer, refused, others, near


def _requests(
    files: list[tuple[Path, str]],
    alignment: AlignmentChoice,
    sent: list[Path],
    refused: list[dict[str, str]],
) -> Iterator[feedback_pb2.ImportImagesRequest]:
    for file, identity in files:
        try:
            image = to_image(read_image(file), alignment)
        except InvalidInput as error:
            refused.append({"image": str(file), "why": error.reason})
            continue
        sent.append(file)
        yield feedback_pb2.ImportImagesRequest(image=image, identity=identity)


def _identified(folder: Path) -> tuple[list[tuple[Path, str]], list[InvalidInput]]:
    from shared.datasets.folder import read_identities

    found = read_identities(folder)
    files = [(file, person) for person, images in found.images.items() for file in images]
    return files, found.unusable


def _unidentified(folder: Path) -> tuple[list[tuple[Path, str]], list[InvalidInput]]:
    from shared.datasets.folder import find_images

    found = find_images(folder)
    if not found.images and not found.unusable:
        raise InvalidInput(str(folder), "has no images in it")
    return [(file, "") for file in found.images], found.unusable
