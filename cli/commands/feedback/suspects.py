"""``magface feedback suspects``: labels that are probably wrong."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from magface.v1 import trainer_pb2
from rich.console import Group, RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, collect_pages, trainer
from cli.output import JsonOption, emit, facts, table, to_plain


def list_suspects(
    job: Annotated[
        str, typer.Option("--job", help="Training job; default: the latest that succeeded.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most labels to show.")] = 100,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List labels that are probably wrong, and the reliability of annotators."""
    pages: list[trainer_pb2.ListSuspectsResponse] = []
    with trainer(folder) as stub:

        def fetch(size: int, token: str) -> tuple[Sequence[trainer_pb2.Suspect], str]:
            # All pages are of one job, even if another training ends in between.
            job_id = pages[0].job_id if pages else job
            request = trainer_pb2.ListSuspectsRequest(
                job_id=job_id, page_size=size, page_token=token
            )
            pages.append(stub.ListSuspects(request, timeout=CALL_TIMEOUT_S))
            return pages[-1].suspects, pages[-1].next_page_token

        found = [to_plain(suspect) for suspect in collect_pages(fetch, limit)]
    result = to_plain(pages[0]) | {"suspects": found}
    del result["next_page_token"]
    emit(as_json, result, suspect_tables(result))


def suspect_tables(result: dict[str, Any]) -> RenderableType:
    """Shows suspected labels and the reliability of annotators."""
    summary = {
        "job": result["job_id"],
        "pairs": result["pairs"],
        "expected wrong": f"{result['wrong_share']:.1%}",
        "treated": "yes" if result["treated"] else "no, almost no label seems wrong",
    }
    labels = [
        [
            "same" if one["same"] else "different",
            f"{one['wrong_probability']:.2f}",
            one["reason"],
            one["sha256_a"],
            one["sha256_b"],
            ", ".join(one["annotators"]),
        ]
        for one in result["suspects"]
    ]
    columns = ("label", "wrong", "reason", "image_a", "image_b", "annotators")
    annotators = [
        [
            one["annotator"],
            one["votes"],
            f"{one['genuine_right']:.0%}",
            f"{one['impostor_right']:.0%}",
        ]
        for one in result["annotators"]
    ]
    return Group(
        facts(summary),
        table(*columns, rows=labels, text=["annotators"]),
        table("annotator", "votes", "right when same", "right when different", rows=annotators),
    )
