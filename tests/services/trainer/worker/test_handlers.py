"""The version that a job works on."""

import io
from pathlib import Path
from uuid import uuid4

import pytest

from services.trainer.settings import WorkerSettings
from services.trainer.worker.handlers import handle_job
from services.trainer.worker.protocol import Assignment, MessageWriter
from services.trainer.worker.specs import JobKind
from shared.errors import InvalidInput, MagFaceError, NotFound, PreconditionFailed
from shared.settings import ObjectStoreSettings
from tests.support.processes import NOWHERE


@pytest.mark.parametrize(
    ("kind", "spec", "serving", "error", "says"),
    [
        (JobKind.QUANTIZE, {"model_version": None}, None, PreconditionFailed, "no version serves"),
        (JobKind.QUANTIZE, {"model_version": None}, "v1", NotFound, "v1"),
        (JobKind.QUANTIZE, {"model_version": "v2"}, "v1", NotFound, "v2"),
        (JobKind.EVALUATE, {"model_version": None}, "v1", NotFound, "v1"),
        (
            JobKind.EVALUATE,
            {"model_version": None, "against_version": "v1"},
            "v1",
            InvalidInput,
            "against_version: is v1",
        ),
    ],
)
def test_a_job_works_on_the_named_version_or_the_one_that_served(
    object_store_settings: ObjectStoreSettings,
    tmp_path: Path,
    *,
    kind: JobKind,
    spec: dict[str, object],
    serving: str | None,
    error: type[MagFaceError],
    says: str,
):
    settings = WorkerSettings(feedback_address=NOWHERE, **object_store_settings.model_dump())
    assignment = Assignment(
        parent_pid=1,
        job_id=uuid4(),
        kind=kind,
        spec=spec,
        data_snapshot=None,
        base_version=serving,
        workdir=tmp_path,
    )
    with pytest.raises(error, match=says):
        handle_job(settings, assignment, MessageWriter(io.BytesIO()))
