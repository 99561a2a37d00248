"""``magface models``: list, import, promote, roll back and shadow versions."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer
from magface.v1 import trainer_pb2
from magface.v1.trainer_pb2_grpc import TrainerServiceStub
from rich.console import Group, RenderableType
from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from cli.clients import (
    CALL_TIMEOUT_S,
    DirOption,
    collect_pages,
    new_key,
    repeat_if_cut,
    trainer,
)
from cli.commands.job_progress import job_facts, wait_for_job
from cli.commands.models.rollout import WaitOption, rollout_table, wait_for_rollout
from cli.commands.options import ByOption, ChannelOrderChoice, EpsOption, user_name
from cli.output import JsonOption, emit, facts, messages, short_time, table, to_plain
from shared.datasets.user_files import open_regular

_CHUNK_BYTES: Final = 2**20
_UPLOAD_TIMEOUT_S: Final = 600.0
_MAX_NAME: Final = 255

ReasonOption = Annotated[str, typer.Option("--reason", help="Recorded in the history.")]


_CHANNEL_ORDERS: Final = {
    ChannelOrderChoice.BGR: trainer_pb2.CHANNEL_ORDER_BGR,
    ChannelOrderChoice.RGB: trainer_pb2.CHANNEL_ORDER_RGB,
}


def list_models(
    limit: Annotated[int, typer.Option(min=1, help="Most versions to show.")] = 20,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List model versions, newest first."""
    generation = 0
    with trainer(folder) as stub:

        def fetch(size: int, token: str) -> tuple[Sequence[trainer_pb2.ModelVersion], str]:
            nonlocal generation
            request = trainer_pb2.ListModelsRequest(page_size=size, page_token=token)
            page = stub.ListModels(request, timeout=CALL_TIMEOUT_S)
            generation = page.serving_generation
            return page.models, page.next_page_token

        models = collect_pages(fetch, limit)
    plain = [to_plain(model) for model in models]
    result = {"models": plain, "serving_generation": generation}
    emit(as_json, result, models_table(plain))


def import_model(
    *,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            show_default=False,
            help="Checkpoint: .pth of MagFace, or .safetensors.",
        ),
    ],
    channel_order: Annotated[
        ChannelOrderChoice | None,
        typer.Option(help="Default: bgr, as in MagFace, or what --probe finds."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Least similarity of a SAME pair; default: calibrated on the trainer's reference "
            "faces, or from --probe."
        ),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Labelled pairs of faces, to choose the better channel order by measuring.",
        ),
    ] = None,
    target_far: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="FAR for --probe's threshold; default: most accurate threshold."
        ),
    ] = None,
    eps: EpsOption = None,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a model version from a checkpoint and judge it; promote it to let it serve."""
    if probe is not None and channel_order is not None:
        raise typer.BadParameter("--probe detects the channel order; omit --channel-order")
    if target_far is not None and (probe is None or threshold is not None):
        raise typer.BadParameter("--target-far needs --probe and no --threshold")
    measured: dict[str, Any] | None = None
    if probe is not None:
        from cli.commands.evaluation.channel_order import probe_channel_order

        measured = probe_channel_order(file, probe, target_far, eps)
        channel_order = ChannelOrderChoice(measured["channel_order"])
        threshold = measured["threshold"] if threshold is None else threshold
    options = trainer_pb2.ImportOptions(
        channel_order=_CHANNEL_ORDERS[channel_order or ChannelOrderChoice.BGR],
        threshold=threshold,
        requested_by=by,
        idempotency_key=new_key(),
        batch_norm_eps=eps,
    )
    with trainer(folder) as stub:
        job = wait_for_job(stub, upload_checkpoint(stub, file, options))
    result = {"job": to_plain(job), "model_version": job.model_version, "probe": measured}
    shown: list[RenderableType] = [job_facts(job)]
    if measured is not None:
        shown.insert(0, _probe_facts(measured))
    emit(as_json, result, Group(*shown))


def _probe_facts(measured: dict[str, Any]) -> RenderableType:
    """Shows what --probe measured."""
    accuracies = measured["best_accuracy"].items()
    return facts(
        {
            "probe": f"{measured['pairs']} pairs",
            "channel order": measured["channel_order"],
            "best accuracy": ", ".join(f"{order} {100 * best:.2f} %" for order, best in accuracies),
            "threshold": f"{measured['threshold']:.3f}",
        }
    )


def promote(
    *,
    model_version: Annotated[str, typer.Argument(show_default=False)],
    reason: ReasonOption,
    override_gate: Annotated[
        bool, typer.Option("--override-gate", help="Promote a version that the gate did not pass.")
    ] = False,
    wait: WaitOption = False,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a version serve."""
    request = trainer_pb2.PromoteModelRequest(
        model_version=model_version,
        requested_by=by,
        reason=reason,
        override_gate=override_gate,
        idempotency_key=new_key(),
    )
    with trainer(folder) as stub:
        answer = stub.PromoteModel(request, timeout=CALL_TIMEOUT_S)
        _show_promotion(stub, answer, wait, as_json)


def rollback(
    reason: ReasonOption,
    wait: WaitOption = False,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the previous version serve again."""
    request = trainer_pb2.RollbackRequest(requested_by=by, reason=reason, idempotency_key=new_key())
    with trainer(folder) as stub:
        answer = stub.Rollback(request, timeout=CALL_TIMEOUT_S)
        _show_promotion(stub, answer, wait, as_json)


def shadow(
    *,
    model_version: Annotated[str, typer.Argument(show_default=False)] = "",
    stop: Annotated[bool, typer.Option("--stop", help="End the shadow evaluation.")] = False,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a version on live requests without serving it; `rollout` shows the result."""
    if stop == bool(model_version):
        raise typer.BadParameter("give either a version or --stop")
    request = trainer_pb2.ShadowModelRequest(
        model_version=model_version, requested_by=by, idempotency_key=new_key()
    )
    with trainer(folder) as stub:
        result = to_plain(stub.ShadowModel(request, timeout=CALL_TIMEOUT_S))
    emit(as_json, result, facts(result))


def _show_promotion(
    stub: TrainerServiceStub,
    answer: trainer_pb2.PromoteModelResponse | trainer_pb2.RollbackResponse,
    wait: bool,
    as_json: bool,
) -> None:
    result = to_plain(answer)
    readable: RenderableType = facts(result)
    if wait:
        rollout = wait_for_rollout(stub, answer.serving_generation)
        result |= {"replicas": rollout["replicas"]}
        readable = rollout_table(rollout)
    emit(as_json, result, readable)


def upload_checkpoint(
    stub: TrainerServiceStub, file: Path, options: trainer_pb2.ImportOptions
) -> trainer_pb2.Job:
    """Uploads a checkpoint file and returns the job that imports it.

    Args:
        stub: The trainer.
        file: The checkpoint.
        options: Must have an idempotency key: a lost connection sends the file again.

    Raises:
        InvalidInput: The file cannot be read.
        Unavailable: The trainer cannot be reached.
    """
    named = trainer_pb2.ImportOptions()
    named.CopyFrom(options)
    named.file_name = _shown_name(file)
    with _upload_progress() as progress:
        task = progress.add_task("uploading", total=file.stat().st_size)

        def send(timeout_s: float) -> trainer_pb2.Job:
            progress.reset(task)
            with open_regular(file) as content:
                parts = _parts(named, content, progress, task)
                return stub.ImportModel(parts, timeout=timeout_s).job

        return repeat_if_cut(send, _UPLOAD_TIMEOUT_S)


def _shown_name(file: Path) -> str:
    """The file's name as the contract allows it: a text of one line."""
    name = "".join(char if char.isprintable() else "?" for char in file.name)
    return name.strip()[:_MAX_NAME]


def models_table(models: Sequence[dict[str, Any]]) -> RenderableType:
    """Shows a list of model versions."""
    columns = ("model_version", "", "gate", "threshold", "created", "architecture", "parent")
    rows = [
        [
            model["model_version"],
            Text("serves", style="green") if model["serving"] else "",
            _gate(model["gate"]),
            f"{model['threshold']:.3f}",
            short_time(model["created_at"]),
            model["architecture"],
            model["parent_version"],
        ]
        for model in models
    ]
    return table(*columns, rows=rows)


def _gate(gate: dict[str, Any] | None) -> Text:
    if gate is None:
        return Text()
    return Text("passed") if gate["passed"] else Text("refused", style="red")


def _upload_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    )


def _parts(
    options: trainer_pb2.ImportOptions, content: BinaryIO, progress: Progress, task: TaskID
) -> Iterator[trainer_pb2.ImportModelRequest]:
    yield trainer_pb2.ImportModelRequest(options=options)
    while chunk := content.read(_CHUNK_BYTES):
        yield trainer_pb2.ImportModelRequest(chunk=chunk)
        progress.advance(task, len(chunk))
