"""Measures model versions on the feedback."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from services.trainer.data.batches import decode_once
from services.trainer.data.labels import FeedbackSource, LabelledPair, images_of
from services.trainer.data.pair_graph import build_graph, links_of, usable_pairs
from services.trainer.evaluation.result import AgainstVersion, EvaluationResult
from services.trainer.progress import Progress, Report, Stage, stage_report
from shared.datasets.pairs import PairSet, renumber
from shared.errors import PreconditionFailed
from shared.evaluation.compare import compare
from shared.evaluation.embed import CropReader, EmbeddedSet, embed_set
from shared.evaluation.measure import Measurement, measure
from shared.evaluation.report.page import write_report
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import read_manifest
from shared.model.sessions.factory import open_session
from shared.settings import ImageLimits

# Where in the whole work each stage ends.
_DECODED, _EMBEDDED, _MEASURED = 0.15, 0.85, 0.9


@dataclass(frozen=True)
class _FeedbackSet:
    """The feedback's pairs as an evaluation wants them; images are named by their hash."""

    pair_set: PairSet
    crops: CropReader

    def __len__(self) -> int:
        return len(self.pair_set.images)


def evaluate_versions(
    version: Path,
    other: Path | None,
    *,
    feedback: FeedbackSource,
    trained_on: frozenset[str],
    workdir: Path,
    report: Report,
) -> tuple[EvaluationResult, Path]:
    """Measure a version on the pairs of a snapshot, each version at its own threshold.

    Args:
        version: Folder of the version.
        other: Folder of the version to compare with.
        feedback: The snapshot.
        trained_on: Hashes of the images that the version was trained on.
        workdir: Takes the crops and the page.
        report: Takes the progress.

    Returns:
        The result, and the file of the page that shows it.

    Raises:
        PreconditionFailed: If no pair of the snapshot can be used.
        CorruptData: If a version gives no usable output.
    """
    labelled = list(feedback.pairs())
    tick = stage_report(report, Stage.DECODING_IMAGES, "decoding images", 0, _DECODED)
    made = _read_pairs(labelled, feedback, workdir, tick)
    folders = [version] if other is None else [version, other]
    bounds = np.linspace(_DECODED, _EMBEDDED, len(folders) + 1)
    embedded = [
        _embed(
            folder,
            made,
            stage_report(report, Stage.EMBEDDING, f"embedding with {folder.name}", start, end),
        )
        for folder, (start, end) in zip(folders, pairwise(bounds), strict=True)
    ]
    report(Progress(Stage.EVALUATING, _EMBEDDED, "measuring"))
    measured = [
        measure(manifest.model_version, faces, made.pair_set, manifest.threshold)
        for manifest, faces in zip(map(read_manifest, folders), embedded, strict=True)
    ]
    report(Progress(Stage.REPORTING, _MEASURED, "writing the report"))
    this, old = measured[0], measured[1] if other else None
    page = workdir / "report.html"
    write_report(page, made.pair_set, this, made.crops, old)
    result = EvaluationResult(
        model_version=this.name,
        data_snapshot=feedback.snapshot_id,
        pairs_trained_on=_count_pairs_with(trained_on, made.pair_set),
        evaluation=this.evaluation,
        against=_against(old, this, made.pair_set) if old else None,
    )
    return result, page


def _read_pairs(
    labelled: list[LabelledPair],
    feedback: FeedbackSource,
    workdir: Path,
    tick: Callable[[float], None],
) -> _FeedbackSet:
    named = sorted(images_of(labelled))
    images, crops = decode_once(
        named, feedback, FaceReader(ImageLimits()), workdir / "crops.npy", tick
    )
    usable = usable_pairs(images, labelled)
    if not usable:
        raise PreconditionFailed(
            f"the snapshot has {len(labelled)} pairs with a consensus of SAME or DIFFERENT, and "
            "none whose images can be read: label some pairs to measure on"
        )
    used, places = renumber(links_of(images, usable).astype(np.int32))
    family = build_graph(images, usable).family
    pair_set = PairSet(
        images=tuple(Path(images[index]) for index in used),
        pairs=places,
        labels=np.array([pair.same for pair in usable]),
        identities=tuple(str(family[index]) for index in used),
    )
    return _FeedbackSet(pair_set, lambda image: crops[used[image]])


def _embed(folder: Path, made: _FeedbackSet, tick: Callable[[float], None]) -> EmbeddedSet:
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        tick(done / len(made))

    return embed_set(open_session(folder), made.pair_set, made.crops, progress=progress)


def _against(old: Measurement, this: Measurement, pair_set: PairSet) -> AgainstVersion:
    comparison = compare(old, this, pair_set).comparison
    return AgainstVersion(model_version=old.name, evaluation=old.evaluation, comparison=comparison)


def _count_pairs_with(images: frozenset[str], pair_set: PairSet) -> int:
    known = np.array([str(name) in images for name in pair_set.images])
    return int(known[pair_set.pairs].any(axis=1).sum())
