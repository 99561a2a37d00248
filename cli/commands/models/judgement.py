"""``magface models judge``: another judgement of a candidate."""

from typing import Annotated

import typer
from magface.v1 import trainer_pb2

from cli.clients import CALL_TIMEOUT_S, DirOption, new_key, trainer
from cli.commands.job_progress import job_facts, wait_for_job
from cli.commands.options import ByOption, user_name
from cli.output import JsonOption, emit, to_plain


def judge_model(
    model_version: Annotated[str, typer.Argument(help="Fine-tuned version to judge.")],
    *,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a candidate again, on its held-out people and on those labelled since."""
    request = trainer_pb2.JudgeModelRequest(
        model_version=model_version, requested_by=by, idempotency_key=new_key()
    )
    with trainer(folder) as stub:
        job = wait_for_job(stub, stub.JudgeModel(request, timeout=CALL_TIMEOUT_S).job)
    result = {"job": to_plain(job), "model_version": job.model_version}
    emit(as_json, result, job_facts(job))
