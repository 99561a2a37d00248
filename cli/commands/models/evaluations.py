"""``magface models evaluate``, ``evaluations`` and ``report``: evaluations on the feedback."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from magface.v1 import trainer_pb2
from magface.v1.trainer_pb2_grpc import TrainerServiceStub
from rich.console import RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, collect_pages, new_key, trainer
from cli.commands.job_progress import wait_for_job
from cli.commands.options import ByOption, user_name
from cli.output import JsonOption, emit, facts, short_time, table, to_plain


def evaluate_model(
    model_version: Annotated[
        str, typer.Argument(help="Version to measure; default: serving.")
    ] = "",
    *,
    against: Annotated[str, typer.Option(help="Version to compare with.")] = "",
    snapshot: Annotated[
        str, typer.Option(help="Snapshot of an earlier export; default: current feedback.")
    ] = "",
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File for the HTML report.")
    ] = None,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a version on the feedback, in a job of the trainer."""
    request = trainer_pb2.EvaluateModelRequest(
        model_version=model_version,
        against_version=against,
        data_snapshot=snapshot,
        requested_by=by,
        idempotency_key=new_key(),
    )
    with trainer(folder) as stub:
        job = wait_for_job(stub, stub.EvaluateModel(request, timeout=CALL_TIMEOUT_S).job)
        evaluation = _evaluation_of(stub, job)
        if report is not None:
            _fetch_report(stub, job.job_id, report)
    result = {"job": to_plain(job), "evaluation": evaluation}
    emit(as_json, result, facts({"job": job.job_id, "result": job.message}))


def list_evaluations(
    model_version: Annotated[str, typer.Argument(help="Default: all versions.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most evaluations to show.")] = 20,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List evaluations on the feedback, newest first."""
    with trainer(folder) as stub:
        found = [to_plain(each) for each in _collect(stub, model_version, limit)]
    emit(as_json, {"evaluations": found}, evaluations_table(found))


def fetch_report(
    job_id: Annotated[str, typer.Argument(show_default=False)],
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="HTML file to write.", show_default=False)
    ],
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the HTML report of an evaluation."""
    with trainer(folder) as stub:
        _fetch_report(stub, job_id, out)
    result = {"file": str(out), "bytes": out.stat().st_size}
    emit(as_json, result, facts(result))


def _collect(
    stub: TrainerServiceStub, model_version: str, limit: int
) -> list[trainer_pb2.Evaluation]:
    def fetch(size: int, token: str) -> tuple[Sequence[trainer_pb2.Evaluation], str]:
        request = trainer_pb2.ListEvaluationsRequest(
            model_version=model_version, page_size=size, page_token=token
        )
        page = stub.ListEvaluations(request, timeout=CALL_TIMEOUT_S)
        return page.evaluations, page.next_page_token

    return collect_pages(fetch, limit)


def _evaluation_of(stub: TrainerServiceStub, job: trainer_pb2.Job) -> dict[str, Any]:
    # It is among the version's newest, unless 1,000 others ended since.
    found = _collect(stub, job.model_version, 1000)
    return next(to_plain(each) for each in found if each.job_id == job.job_id)


def _fetch_report(stub: TrainerServiceStub, job_id: str, out: Path) -> None:
    request = trainer_pb2.GetEvaluationReportRequest(job_id=job_id)
    parts = [part.chunk for part in stub.GetEvaluationReport(request, timeout=CALL_TIMEOUT_S)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(b"".join(parts))


def evaluations_table(found: Sequence[dict[str, Any]]) -> RenderableType:
    """Shows a list of evaluations."""
    columns = ("job_id", "at", "pairs", "accuracy", "TAR at FAR 1 %", "model_version", "against")
    return table(*columns, rows=[_row(each) for each in found])


def _row(each: dict[str, Any]) -> list[object]:
    figures = each["figures"]
    tar = figures["values"].get("tar_at_far.0.01")
    return [
        each["job_id"],
        short_time(each["at"]),
        figures["genuine_pairs"] + figures["impostor_pairs"],
        f"{100 * figures['values']['accuracy']:.2f} %",
        None if tar is None else f"{100 * tar:.2f} %",
        each["model_version"],
        each["against"]["model_version"] if each["against"] else None,
    ]
