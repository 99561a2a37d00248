"""Sample versions, verdicts and results, made without a network."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from services.trainer.evaluation.gate import GateCheck, GateVerdict
from services.trainer.evaluation.result import AgainstVersion, EvaluationResult
from services.trainer.jobs.queue import Job, create_job
from services.trainer.registry.versions import add_version
from services.trainer.worker.specs import JobKind
from shared.model.manifest import ONNX_FILE, WEIGHTS_FILE, FileEntry, GoldenCrop, Manifest
from shared.storage.postgres import Pool, transaction
from tests.support.operating_curve import make_curve

PASSED = GateVerdict((GateCheck("heldout_errors", True, 0.05, 0.1, "fewer errors"),))
REFUSED = GateVerdict((GateCheck("heldout_errors", False, float("nan"), 0.1, "not a number"),))
UNDECIDED = GateVerdict(
    (GateCheck("heldout_gain", False, 0.02, 0.0, "a gain of 2 points", -0.02, undecided=True),),
    missing="41 more people with a genuine pair would show a gain of 2 points",
)
IMPORT = {"upload": None, "channel_order": "bgr", "threshold": 0.4, "promote_if_first": False}


def files_are_there(_: Manifest) -> None:
    """Take the files of a sample, which has none, for complete."""


def train_spec(parent: str | None = "parent", **changes: object) -> dict[str, object]:
    return {"parent_version": parent, "options": {}, "no_promotion": False, **changes}


def make_folder(folder: Path, model_version: str, job_id: UUID, parent: str | None = None) -> Path:
    """Write the folder of a version with a manifest that is valid for the registry."""
    folder.mkdir(parents=True)
    for name in (ONNX_FILE, WEIGHTS_FILE):
        (folder / name).write_bytes(f"{name} of {model_version}".encode())
    make_manifest(model_version, job_id, parent, folder).write(folder)
    return folder


def make_manifest(
    model_version: str, job_id: UUID, parent: str | None = None, folder: Path | None = None
) -> Manifest:
    return Manifest(
        model_version=model_version,
        architecture="iresnet18",
        embedding_size=512,
        channel_order="bgr",
        threshold=0.3,
        magnitude_quantiles=(10.0, 30.0),
        operating_curve=make_curve(*(-1 + number / 10 for number in range(18))),
        parent_version=parent,
        job_id=str(job_id),
        data_snapshot=None,
        created_at=datetime.now(UTC),
        files={path.name: _entry(path) for path in sorted(folder.iterdir())} if folder else {},
        golden=(GoldenCrop(png="", embedding="", magnitude=20.0),),
    )


def _entry(path: Path) -> FileEntry:
    data = path.read_bytes()
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def result_of(model_version: str, against: str | None = None) -> EvaluationResult:
    """The result of an evaluation on two genuine and two impostor pairs."""
    # Imported here: the stand-in worker imports this module and does not need SciPy to start.
    from shared.evaluation.compare import compare
    from shared.evaluation.measure import measure
    from tests.shared.evaluation.sets import plane_set

    labels = [True, True, False, False]
    pair_set, embedded = plane_set([0.9, 0.2, 0.1, 0.4], labels)
    _, before = plane_set([0.9, 0.2, 0.5, 0.4], labels)
    this = measure(model_version, embedded, pair_set, 0.3)
    old = measure(against or "", before, pair_set, 0.3)
    return EvaluationResult(
        model_version=model_version,
        data_snapshot="snapshot-1",
        pairs_trained_on=3,
        evaluation=this.evaluation,
        against=AgainstVersion(
            model_version=against,
            evaluation=old.evaluation,
            comparison=compare(old, this, pair_set).comparison,
        )
        if against
        else None,
    )


async def add_sample(
    pool: Pool,
    model_version: str,
    gate: GateVerdict | None = PASSED,
    parent: str | None = None,
    kind: JobKind = JobKind.IMPORT,
) -> Job:
    """Record a version and the job that made it."""
    async with transaction(pool) as connection:
        spec = train_spec() if kind is JobKind.TRAIN else IMPORT
        job = await create_job(connection, kind, spec, "someone")
        await connection.execute(
            "UPDATE trainer.jobs SET state = 'succeeded', ended_at = now() WHERE job_id = %s",
            (job.job_id,),
        )
        manifest = make_manifest(model_version, job.job_id, parent)
        await add_version(connection, manifest, gate, job.job_id)
        return job
