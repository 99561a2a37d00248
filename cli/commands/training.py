"""``magface train`` and ``magface jobs``."""

from collections.abc import Sequence
from enum import StrEnum
from textwrap import shorten
from typing import Annotated, Any, Final

import typer
from magface.v1 import trainer_pb2
from rich.console import RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, collect_pages, new_key, trainer
from cli.commands.job_progress import follow_job, job_facts, wait_for_job
from cli.commands.options import ByOption, user_name
from cli.output import JsonOption, console, emit, in_words, short_time, table, to_plain

jobs = typer.Typer(no_args_is_help=True, help="List, show, watch and cancel jobs of the trainer.")

JobArgument = Annotated[str, typer.Argument(show_default=False)]


class RecipeChoice(StrEnum):
    """Loss function of a training."""

    COSINE = "cosine"
    HADSELL = "hadsell"


_RECIPES: Final = {
    RecipeChoice.COSINE: trainer_pb2.RECIPE_COSINE,
    RecipeChoice.HADSELL: trainer_pb2.RECIPE_HADSELL,
}


def train(
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of the job.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pairs per step.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    genuine_margin: Annotated[
        float | None, typer.Option(help="Similarity above which a genuine pair has no loss.")
    ] = None,
    impostor_margin: Annotated[
        float | None, typer.Option(help="Similarity below which an impostor pair has no loss.")
    ] = None,
    recipe: Annotated[
        RecipeChoice | None, typer.Option(help="cosine: two margins; hadsell: contrastive loss.")
    ] = None,
    parent: Annotated[str, typer.Option(help="Version to start from; default: serving.")] = "",
    no_promotion: Annotated[
        bool, typer.Option("--no-promotion", help="Do not promote it when it passes the gate.")
    ] = False,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model version on the current feedback."""
    options = trainer_pb2.TrainingOptions(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        genuine_margin=genuine_margin,
        impostor_margin=impostor_margin,
        parent_version=parent,
        recipe=trainer_pb2.RECIPE_UNSPECIFIED if recipe is None else _RECIPES[recipe],
    )
    request = trainer_pb2.StartTrainingRequest(
        options=options,
        requested_by=by,
        no_promotion=no_promotion,
        idempotency_key=new_key(),
    )
    with trainer(folder) as stub:
        job = stub.StartTraining(request, timeout=CALL_TIMEOUT_S).job
        if wait:
            job = wait_for_job(stub, job)
    emit(as_json, {"job": to_plain(job)}, job_facts(job))


@jobs.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to show.")] = 20,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with trainer(folder) as stub:

        def fetch(page_size: int, page_token: str) -> tuple[Sequence[trainer_pb2.Job], str]:
            request = trainer_pb2.ListJobsRequest(page_size=page_size, page_token=page_token)
            page = stub.ListJobs(request, timeout=CALL_TIMEOUT_S)
            return page.jobs, page.next_page_token

        found = collect_pages(fetch, limit)
    plain = [to_plain(job) for job in found]
    emit(as_json, {"jobs": plain}, jobs_table(plain))


@jobs.command()
def show(job_id: JobArgument, folder: DirOption = None, as_json: JsonOption = False) -> None:
    """Show a job and the checks of its gate."""
    with trainer(folder) as stub:
        job = stub.GetJob(trainer_pb2.GetJobRequest(job_id=job_id), timeout=CALL_TIMEOUT_S).job
    emit(as_json, {"job": to_plain(job)}, job_facts(job))


@jobs.command()
def watch(job_id: JobArgument, folder: DirOption = None, as_json: JsonOption = False) -> None:
    """Print the events of a job until it ends."""
    events: list[dict[str, Any]] = []

    def on_event(event: trainer_pb2.WatchJobResponse) -> None:
        plain = to_plain(event)
        events.append(plain)
        if not as_json:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in plain["figures"].items())
            share = f"{event.job.progress:4.0%}"
            stage = in_words(plain["job"]["stage"])
            console.print(plain["at"], share, stage, event.job.message, figures, markup=False)

    with trainer(folder) as stub:
        job = follow_job(stub, job_id, on_event)
    emit(as_json, {"job": to_plain(job), "events": events}, job_facts(job))


@jobs.command("left-out")
def list_left_out(
    job_id: JobArgument,
    limit: Annotated[int, typer.Option(min=1, help="Most images to show.")] = 100,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the images that a finished job did not use, and why."""
    with trainer(folder) as stub:

        def fetch(size: int, token: str) -> tuple[Sequence[trainer_pb2.LeftOutImage], str]:
            request = trainer_pb2.ListLeftOutRequest(
                job_id=job_id, page_size=size, page_token=token
            )
            page = stub.ListLeftOut(request, timeout=CALL_TIMEOUT_S)
            return page.images, page.next_page_token

        found = [to_plain(image) for image in collect_pages(fetch, limit)]
    rows = [[one["sha256"], in_words(one["reason"]), one["detail"]] for one in found]
    shown = table("image", "reason", "detail", rows=rows, text=["detail"])
    emit(as_json, {"images": found}, shown)


@jobs.command()
def cancel(
    job_id: JobArgument,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a job to stop."""
    request = trainer_pb2.CancelJobRequest(
        job_id=job_id, requested_by=by, idempotency_key=new_key()
    )
    with trainer(folder) as stub:
        job = stub.CancelJob(request, timeout=CALL_TIMEOUT_S).job
    emit(as_json, {"job": to_plain(job)}, job_facts(job))


def jobs_table(listed: Sequence[dict[str, Any]]) -> RenderableType:
    """Shows a list of jobs."""
    columns = ("job_id", "kind", "state", "progress", "stage", "model_version", "created")
    rows = [
        [
            job["job_id"],
            job["kind"],
            job["state"],
            f"{job['progress']:.0%}",
            in_words(job["stage"]),
            job["model_version"],
            short_time(job["created_at"]),
            shorten(job["message"], 200, placeholder=" …"),
        ]
        for job in listed
    ]
    return table(*columns, "message", rows=rows, text=["message"])
