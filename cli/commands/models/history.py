"""``magface models history``: which version served from when, who wanted it, and why."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from magface.v1 import trainer_pb2
from rich.console import RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, collect_pages, trainer
from cli.output import JsonOption, emit, short_time, table, to_plain


def show_history(
    limit: Annotated[int, typer.Option(min=1, help="Most entries to show.")] = 20,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the promotions, rollbacks and changes of the operating point, newest first."""
    with trainer(folder) as stub:

        def fetch(size: int, token: str) -> tuple[Sequence[trainer_pb2.Promotion], str]:
            request = trainer_pb2.ListPromotionsRequest(page_size=size, page_token=token)
            page = stub.ListPromotions(request, timeout=CALL_TIMEOUT_S)
            return page.promotions, page.next_page_token

        promotions = [to_plain(one) for one in collect_pages(fetch, limit)]
    emit(as_json, {"promotions": promotions}, history_table(promotions))


def history_table(promotions: Sequence[dict[str, Any]]) -> RenderableType:
    """Shows the serving history."""
    rows = [
        [
            one["serving_generation"],
            short_time(one["at"]),
            one["model_version"],
            one["requested_by"],
            "gate overridden" if one["gate_overridden"] else "",
            "" if one["target_fmr"] is None else f"{one['target_fmr']:g}",
            one["restores"] or "",
            one["reason"],
        ]
        for one in promotions
    ]
    columns = ("generation", "from", "model_version", "by", "", "target FMR", "restores", "reason")
    return table(*columns, rows=rows, text=["reason"])
