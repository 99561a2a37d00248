"""``magface models quantize``: int8 versions."""

from typing import Annotated

import typer
from magface.v1 import trainer_pb2

from cli.clients import CALL_TIMEOUT_S, DirOption, new_key, trainer
from cli.commands.job_progress import job_facts, wait_for_job
from cli.commands.options import ByOption, user_name
from cli.output import JsonOption, emit, to_plain


def quantize_model(
    model_version: Annotated[
        str, typer.Argument(help="Version to quantize; default: serving.")
    ] = "",
    *,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create an int8 version, which is faster on a CPU; promote it to let it serve."""
    request = trainer_pb2.QuantizeModelRequest(
        model_version=model_version, requested_by=by, idempotency_key=new_key()
    )
    with trainer(folder) as stub:
        job = wait_for_job(stub, stub.QuantizeModel(request, timeout=CALL_TIMEOUT_S).job)
    result = {"job": to_plain(job), "model_version": job.model_version}
    emit(as_json, result, job_facts(job))
