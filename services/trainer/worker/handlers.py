"""What a worker does, kind of job by kind of job; each imports what it needs when it comes."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from services.trainer.data.label_report import keep_report_without_erased
from services.trainer.data.labels import images_of
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.progress import Progress, Stage
from services.trainer.settings import WorkerSettings
from services.trainer.training.checkpoint import StoredEpochState
from services.trainer.worker.protocol import Assignment, Done, Measured, SnapshotTaken
from services.trainer.worker.specs import (
    EvaluateSpec,
    ImportSpec,
    JobKind,
    QuantizeSpec,
    TrainSpec,
    upload_key,
)
from shared.errors import NotFound
from shared.model.default import DEFAULT_CHECKPOINT, default_calibration
from shared.storage.objects import ObjectStore

if TYPE_CHECKING:
    import grpc

    from services.trainer.data.feedback_source import PulledFeedback
    from services.trainer.worker.protocol import Voice


# Earlier versions, the latest first, that a new one is measured against besides its parent.
_ANCESTORS = 3


def do(assignment: Assignment, voice: "Voice") -> Done | Measured:
    """Do the job that is assigned.

    Raises:
        MagFaceError: If it cannot be done; says why.
    """
    settings = WorkerSettings()
    objects = ObjectStore(settings)
    match assignment.kind:
        case JobKind.IMPORT:
            return _import(assignment, settings, objects, voice)
        case JobKind.TRAIN:
            return _train(assignment, settings, objects, voice)
        case JobKind.EVALUATE:
            return _evaluate(assignment, settings, objects, voice)
        case JobKind.QUANTIZE:
            return _quantize(assignment, settings, objects, voice)


def _import(
    assignment: Assignment, settings: WorkerSettings, objects: ObjectStore, voice: "Voice"
) -> Done:
    from services.trainer.worker.importer import import_checkpoint  # noqa: PLC0415

    spec = ImportSpec.model_validate(assignment.spec)
    voice.report(Progress(Stage.LOADING_MODEL, 0.0, "fetching the checkpoint"))
    if spec.upload is None:
        checkpoint = DEFAULT_CHECKPOINT
        quantiles = default_calibration().magnitude_quantiles
    else:
        checkpoint = assignment.workdir / "uploaded-file"
        objects.get_file(upload_key(spec.upload), checkpoint, sha256=spec.upload)
        quantiles = None
    folder = import_checkpoint(
        checkpoint,
        spec,
        assignment.job_id,
        assignment.workdir,
        reference=_reference(settings, objects, None),
        report=voice.report,
        magnitude_quantiles=quantiles,
    )
    return Done(folder=folder, gate=None)


def _train(
    assignment: Assignment, settings: WorkerSettings, objects: ObjectStore, voice: "Voice"
) -> Done:
    from services.trainer.data.feedback_source import PulledFeedback  # noqa: PLC0415
    from shared.model.manifest import read_manifest  # noqa: PLC0415
    from shared.registry.version_store import VersionStore  # noqa: PLC0415
    from shared.rpc.channel import open_sync_channel  # noqa: PLC0415

    workdir = assignment.workdir
    spec = TrainSpec.model_validate(assignment.spec)
    with open_sync_channel(settings.feedback_address) as channel:
        feedback = _pull(channel, assignment.data_snapshot, workdir, voice)
        voice.report(Progress(Stage.LOADING_MODEL, 0.0, f"loading {spec.parent_version}"))
        # Only now: it takes seconds, for nothing when there is no feedback to be had.
        from services.trainer.training.run import run_training  # noqa: PLC0415

        versions = VersionStore(objects, workdir / "versions")
        parent = versions.fetch(spec.parent_version)
        manifest = read_manifest(parent)
        outcome = run_training(
            spec.for_job(str(assignment.job_id)),
            feedback=feedback,
            parent=parent,
            reference=_reference(settings, objects, manifest.reference),
            workdir=_made(workdir / "training"),
            state=StoredEpochState(objects, assignment.job_id),
            report=voice.report,
            ancestors=[versions.fetch(name) for name in manifest.compatible_versions[:_ANCESTORS]],
            images_at_once=settings.train_images_at_once,
        )
        keep_report_without_erased(
            objects,
            assignment.job_id,
            outcome.labels,
            lambda: images_of(
                PulledFeedback(channel, feedback.snapshot_id, workdir / "none").pairs()
            ),
        )
    return Done(folder=outcome.folder, gate=outcome.gate)


def _evaluate(
    assignment: Assignment, settings: WorkerSettings, objects: ObjectStore, voice: "Voice"
) -> Measured:
    from services.trainer.data.feedback_source import PulledFeedback  # noqa: PLC0415
    from services.trainer.evaluation.feedback_evaluation import evaluate_versions  # noqa: PLC0415
    from shared.model.manifest import read_manifest  # noqa: PLC0415
    from shared.registry.version_store import VersionStore  # noqa: PLC0415
    from shared.rpc.channel import open_sync_channel  # noqa: PLC0415

    workdir = assignment.workdir
    spec = EvaluateSpec.model_validate(assignment.spec)
    voice.report(Progress(Stage.LOADING_MODEL, 0.0, f"loading {spec.model_version}"))
    store = VersionStore(objects, workdir / "versions")
    version = store.fetch(spec.model_version)
    other = store.fetch(spec.against_version) if spec.against_version else None
    with open_sync_channel(settings.feedback_address) as channel:
        feedback = _pull(channel, assignment.data_snapshot or spec.data_snapshot, workdir, voice)
        trained_on: frozenset[str] = frozenset()
        snapshot = read_manifest(version).data_snapshot
        # A version may come from where other feedback is kept.
        with suppress(NotFound):
            if snapshot is not None:
                trained_on = images_of(PulledFeedback(channel, snapshot, workdir / "none").pairs())
        result, page = evaluate_versions(
            version,
            other,
            feedback=feedback,
            trained_on=trained_on,
            workdir=workdir,
            report=voice.report,
        )
    return Measured(result=result, page=page)


def _quantize(
    assignment: Assignment, settings: WorkerSettings, objects: ObjectStore, voice: "Voice"
) -> Done:
    from services.trainer.worker.quantizer import quantize_version  # noqa: PLC0415
    from shared.model.manifest import read_manifest  # noqa: PLC0415
    from shared.registry.version_store import VersionStore  # noqa: PLC0415
    from shared.rpc.channel import open_sync_channel  # noqa: PLC0415

    workdir = assignment.workdir
    spec = QuantizeSpec.model_validate(assignment.spec)
    voice.report(Progress(Stage.LOADING_MODEL, 0.0, f"loading {spec.model_version}"))
    versions = VersionStore(objects, workdir / "versions")
    full = versions.fetch(spec.model_version)
    manifest = read_manifest(full)
    reference = _reference(settings, objects, manifest.reference)
    ancestors = [versions.fetch(name) for name in manifest.compatible_versions[:_ANCESTORS]]
    with open_sync_channel(settings.feedback_address) as channel:
        feedback = _pull(channel, assignment.data_snapshot, workdir, voice)
        made = quantize_version(
            full,
            assignment.job_id,
            reference=reference,
            feedback=feedback,
            workdir=_made(workdir / "quantizing"),
            report=voice.report,
            ancestors=ancestors,
        )
    return Done(folder=made.folder, gate=made.gate)


def _pull(
    channel: "grpc.Channel", snapshot_id: str | None, workdir: Path, voice: "Voice"
) -> "PulledFeedback":
    """Pull a snapshot and its images, and say which it is."""
    from services.trainer.data.feedback_source import PulledFeedback  # noqa: PLC0415

    voice.report(Progress(Stage.PULLING_FEEDBACK, 0.0, "pulling the feedback"))
    feedback = PulledFeedback(channel, snapshot_id, workdir / "images")
    voice.say(SnapshotTaken(snapshot_id=feedback.snapshot_id))
    feedback.fetch_all(
        lambda done, of: voice.report(
            Progress(Stage.PULLING_IMAGES, 0.0, "pulling the images", {"images": done, "of": of})
        )
    )
    return feedback


def _reference(settings: WorkerSettings, objects: ObjectStore, named: str | None) -> ReferenceFaces:
    """Give the faces that this trainer is set to watch, or those that a version names."""
    from services.trainer.data.reference_faces import (  # noqa: PLC0415
        default_reference,
        keep_reference,
        load_reference,
        read_reference,
    )

    if settings.reference_faces:
        return keep_reference(objects, read_reference(settings.reference_faces, settings))
    return load_reference(objects, named) if named else default_reference()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
