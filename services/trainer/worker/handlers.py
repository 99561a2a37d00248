"""Job handlers: what the worker does for each kind of job.

Modules that import torch or onnxruntime are imported by the handlers that need them, because
that takes seconds.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import grpc

from services.trainer.data.feedback_source import PulledFeedback, pull_snapshot
from services.trainer.data.label_report import (
    LabelReport,
    load_report,
    store_report_without_erased,
)
from services.trainer.data.labels import images_of
from services.trainer.data.left_out import LeftOut
from services.trainer.data.reference_faces import (
    ReferenceFaces,
    default_reference,
    load_reference,
    read_reference,
    store_reference,
)
from services.trainer.progress import Progress, Stage
from services.trainer.settings import WorkerSettings
from services.trainer.training.checkpoint import JobCheckpoints
from services.trainer.worker.protocol import (
    Assignment,
    EvaluationDone,
    MessageWriter,
    Result,
    SnapshotTaken,
    VerdictDone,
    VersionDone,
)
from services.trainer.worker.specs import (
    EvaluateSpec,
    ImportSpec,
    JobKind,
    JudgeSpec,
    QuantizeSpec,
    TrainSpec,
    upload_key,
)
from shared.errors import InvalidInput, NotFound, PreconditionFailed
from shared.model.default import DEFAULT_CHECKPOINT, default_calibration
from shared.model.manifest import Manifest, read_manifest
from shared.registry.signed_objects import SignedObjects
from shared.registry.version_store import VersionStore
from shared.rpc.channel import open_sync_channel
from shared.storage.objects import ObjectStore

_ASK_FOR_REFERENCE = (
    "reference faces of your own say more: set MAGFACE_REFERENCE_FACES of the trainer to a folder"
    " of real faces (a folder of aligned crops per identity, 20 people or more)"
)
# Earlier versions, the latest first, whose stored embeddings a new version is checked against,
# besides its parent's.
_ANCESTORS = 3


@dataclass(frozen=True)
class _Job:
    """An assigned job and what its handler needs.

    Attributes:
        versions: Cache of the registry's versions in the working folder.
    """

    assignment: Assignment
    settings: WorkerSettings
    objects: ObjectStore
    versions: VersionStore
    writer: MessageWriter

    @property
    def workdir(self) -> Path:
        return self.assignment.workdir

    def version(self, named: str | None) -> str:
        """Return the version to work on: the one that the spec names, or the serving one.

        Raises:
            PreconditionFailed: If none is named and no version served when the work began.
        """
        version = named or self.assignment.base_version
        if version is None:
            raise PreconditionFailed("no version serves yet; import one, or name one")
        return version

    def report(self, stage: Stage, message: str) -> None:
        """Report the start of a stage before the measured part of the work."""
        self.writer.report(Progress(stage, 0.0, message))


def handle_job(
    settings: WorkerSettings, assignment: Assignment, writer: MessageWriter
) -> Result | None:
    """Do a job.

    Returns:
        The last message. None on a process of torchrun other than rank 0.

    Raises:
        MagFaceError: If the job cannot be done; the message says why.
    """
    objects = SignedObjects(
        settings, trusted=settings.model_jwks, signing_key=settings.model_signing_key
    )
    versions = VersionStore(objects, assignment.workdir / "versions")
    job = _Job(assignment, settings, objects, versions, writer)
    match assignment.kind:
        case JobKind.IMPORT:
            return _import(job)
        case JobKind.TRAIN:
            return _train(job)
        case JobKind.EVALUATE:
            return _evaluate(job)
        case JobKind.QUANTIZE:
            return _quantize(job)
        case JobKind.JUDGE:
            return _judge(job)


def freeze_feedback(
    settings: WorkerSettings, assignment: Assignment, writer: MessageWriter
) -> Assignment:
    """Make the data snapshot of a training, so that all its processes pull the same one.

    Raises:
        Unavailable: If the feedback service cannot be reached.
    """
    if assignment.kind is not JobKind.TRAIN or assignment.data_snapshot is not None:
        return assignment
    writer.report(Progress(Stage.PULLING_FEEDBACK, 0.0, "freezing the feedback"))
    with open_sync_channel(settings.feedback_address, settings) as channel:
        snapshot = pull_snapshot(channel, None)
    return assignment.model_copy(update={"data_snapshot": snapshot.snapshot_id})


def _import(job: _Job) -> VersionDone:
    from services.trainer.worker.importer import import_checkpoint  # noqa: PLC0415

    spec = ImportSpec.model_validate(job.assignment.spec)
    job.report(Stage.LOADING_MODEL, "fetching the checkpoint")
    if spec.upload is None:
        checkpoint = DEFAULT_CHECKPOINT
        quantiles = default_calibration().magnitude_quantiles
    else:
        checkpoint = job.workdir / "uploaded-file"
        job.objects.get_file(upload_key(spec.upload), checkpoint, sha256=spec.upload)
        quantiles = None
    reference, note = _reference_faces(job, None)
    if reference is None:
        reference = default_reference()
        note = f"{reference.describe()} that are rendered"
    imported = import_checkpoint(
        checkpoint,
        spec,
        job.assignment.job_id,
        job.workdir,
        reference=reference,
        report=job.writer.report,
        reference_note=note,
        target_fmr=job.assignment.target_fmr,
        magnitude_quantiles=quantiles,
    )
    remark = f"measured on {note}"
    if reference.sha256 is None:
        remark += f"; {_ASK_FOR_REFERENCE} and import again"
    return VersionDone(folder=imported.folder, gate=imported.gate, remark=remark)


def _train(job: _Job) -> VersionDone | None:
    spec = TrainSpec.model_validate(job.assignment.spec)
    with open_sync_channel(job.settings.feedback_address, job.settings) as channel:
        feedback = _pull(job, channel, job.assignment.data_snapshot)
        parent_version = job.version(spec.parent_version)
        job.report(Stage.LOADING_MODEL, f"loading {parent_version}")
        # After the pull, which may fail: there is no need to wait for this import before.
        from services.trainer.training.run import run_training  # noqa: PLC0415

        parent = job.versions.fetch(parent_version)
        manifest = read_manifest(parent)
        reference, note = _reference_faces(job, manifest)
        outcome = run_training(
            spec.training_spec(
                str(job.assignment.job_id), parent_version, job.assignment.target_fmr
            ),
            feedback=feedback,
            parent=parent,
            reference=reference,
            reference_note=note,
            workdir=_new_folder(job.workdir / "training"),
            checkpoints=JobCheckpoints(job.objects, job.assignment.job_id),
            report=job.writer.report,
            ancestors=_ancestors(job, manifest),
            images_at_once=job.settings.train_images_at_once,
        )
        if outcome is None:
            return None
        _store_label_report(job, channel, feedback.snapshot_id, outcome.labels)
    parts = [_remark(outcome.left_out, outcome.labels.describe_labels())]
    if reference is None:
        parts.append(f"kept from the parent: {outcome.manifest.reference_note}")
        parts.append(_ASK_FOR_REFERENCE)
    remark = "; ".join(part for part in parts if part)
    return VersionDone(folder=outcome.folder, gate=outcome.gate, remark=remark)


def _evaluate(job: _Job) -> EvaluationDone:
    from services.trainer.evaluation.feedback_evaluation import evaluate_versions  # noqa: PLC0415

    spec = EvaluateSpec.model_validate(job.assignment.spec)
    evaluated = job.version(spec.model_version)
    if evaluated == spec.against_version:
        raise InvalidInput("against_version", f"is {evaluated}, the version to evaluate")
    job.report(Stage.LOADING_MODEL, f"loading {evaluated}")
    version = job.versions.fetch(evaluated)
    other = job.versions.fetch(spec.against_version) if spec.against_version else None
    with open_sync_channel(job.settings.feedback_address, job.settings) as channel:
        feedback = _pull(job, channel, job.assignment.data_snapshot or spec.data_snapshot)
        result, page, left_out = evaluate_versions(
            version,
            other,
            feedback=feedback,
            trained_on=_images_trained_on(channel, read_manifest(version)),
            workdir=job.workdir,
            report=job.writer.report,
        )
        _store_left_out(job, channel, feedback.snapshot_id, left_out)
    return EvaluationDone(result=result, page=page, remark=_remark(left_out))


def _quantize(job: _Job) -> VersionDone:
    from services.trainer.worker.quantizer import quantize_version  # noqa: PLC0415

    spec = QuantizeSpec.model_validate(job.assignment.spec)
    source = job.version(spec.model_version)
    job.report(Stage.LOADING_MODEL, f"loading {source}")
    full = job.versions.fetch(source)
    manifest = read_manifest(full)
    reference, _ = _reference_faces(job, manifest)
    ancestors = _ancestors(job, manifest)
    with open_sync_channel(job.settings.feedback_address, job.settings) as channel:
        feedback = _pull(job, channel, job.assignment.data_snapshot)
        quantized = quantize_version(
            full,
            job.assignment.job_id,
            reference=reference or default_reference(),
            feedback=feedback,
            workdir=_new_folder(job.workdir / "quantizing"),
            report=job.writer.report,
            ancestors=ancestors,
            target_fmr=job.assignment.target_fmr,
        )
        _store_left_out(job, channel, feedback.snapshot_id, quantized.left_out)
    remark = _remark(quantized.left_out)
    return VersionDone(folder=quantized.folder, gate=quantized.gate, remark=remark)


def _judge(job: _Job) -> VerdictDone:
    from services.trainer.worker.judgement import UnseenPeople, judge_version  # noqa: PLC0415

    spec = JudgeSpec.model_validate(job.assignment.spec)
    job.report(Stage.LOADING_MODEL, f"loading {spec.model_version}")
    candidate = job.versions.fetch(spec.model_version)
    manifest = read_manifest(candidate)
    if manifest.parent_version is None:
        raise PreconditionFailed(f"{spec.model_version} has no parent to compare with")
    parent = job.versions.fetch(manifest.parent_version)
    with open_sync_channel(job.settings.feedback_address, job.settings) as channel:
        seen = _images_trained_on(channel, manifest) - _held_out_images(job, spec.training_job)
        feedback = _pull(job, channel, job.assignment.data_snapshot)
        judged = judge_version(
            candidate,
            parent,
            feedback=UnseenPeople(feedback, seen),
            reference=(
                load_reference(job.objects, manifest.reference)
                if manifest.reference
                else default_reference()
            ),
            target_fmr=job.assignment.target_fmr,
            seed=spec.seed,
            workdir=_new_folder(job.workdir / "judging"),
            report=job.writer.report,
        )
        _store_left_out(job, channel, feedback.snapshot_id, judged.left_out)
    remark = f"judged on {judged.people} people whom it was not trained on"
    if left_out := _remark(judged.left_out):
        remark += f"; {left_out}"
    return VerdictDone(model_version=spec.model_version, gate=judged.gate, remark=remark)


def _held_out_images(job: _Job, training_job: UUID) -> frozenset[str]:
    """Return the images of the people whom a training held out; none where it did not say."""
    with suppress(NotFound):
        return frozenset(load_report(job.objects, training_job).held_out)
    return frozenset()


def _pull(job: _Job, channel: grpc.Channel, snapshot_id: str | None) -> PulledFeedback:
    """Pull a snapshot and its images, and report which snapshot it is."""
    job.report(Stage.PULLING_FEEDBACK, "pulling the feedback")
    snapshot = pull_snapshot(channel, snapshot_id)
    job.writer.write(SnapshotTaken(snapshot_id=snapshot.snapshot_id))
    feedback = PulledFeedback(channel, snapshot, job.workdir / "images")

    def report(done: int, total: int) -> None:
        figures = {"images": done, "of": total}
        job.writer.report(Progress(Stage.PULLING_IMAGES, 0.0, "pulling the images", figures))

    feedback.fetch_all(report)
    return feedback


def _store_label_report(
    job: _Job, channel: grpc.Channel, snapshot_id: str, labels: LabelReport
) -> None:
    store_report_without_erased(
        job.objects,
        job.assignment.job_id,
        labels,
        lambda: images_of(pull_snapshot(channel, snapshot_id).pairs),
    )


def _store_left_out(job: _Job, channel: grpc.Channel, snapshot_id: str, left_out: LeftOut) -> None:
    if left_out.listed:
        _store_label_report(job, channel, snapshot_id, LabelReport.of_left_out(left_out))


def _remark(left_out: LeftOut, labels: str = "") -> str:
    """Say what the job did not use; empty if it used everything."""
    images = left_out.describe()
    listed = f"{images}; `magface jobs left-out` lists them" if images else ""
    return "; ".join(part for part in (listed, labels) if part)


def _images_trained_on(channel: grpc.Channel, manifest: Manifest) -> frozenset[str]:
    if manifest.data_snapshot is not None:
        # A version trained on another deployment's feedback names a snapshot unknown here.
        with suppress(NotFound):
            return images_of(pull_snapshot(channel, manifest.data_snapshot).pairs)
    return frozenset()


def _ancestors(job: _Job, manifest: Manifest) -> list[Path]:
    """Fetch the earlier versions to check a new one against."""
    return [job.versions.fetch(name) for name in manifest.compatible_versions[:_ANCESTORS]]


def _reference_faces(job: _Job, parent: Manifest | None) -> tuple[ReferenceFaces | None, str]:
    """Return the reference faces of this trainer's settings, or those that a parent names.

    Returns:
        The faces, and what they are, for a person; None if neither names any.
    """
    settings = job.settings
    if settings.reference_faces:
        faces = store_reference(job.objects, read_reference(settings.reference_faces, settings))
        return faces, f"{faces.describe()} of a folder"
    if parent and parent.reference:
        faces = load_reference(job.objects, parent.reference)
        return faces, parent.reference_note or f"{faces.describe()} stored with the parent"
    return None, ""


def _new_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder
