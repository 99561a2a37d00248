"""Evaluation of model versions on the feedback."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from services.trainer.data.batches import decode_labelled, measured_pairs
from services.trainer.data.labels import FeedbackSource
from services.trainer.data.left_out import LeftOut
from services.trainer.data.pair_graph import build_graph, links_of
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

# Share of the whole work that is done at the end of each stage.
_DECODED, _EMBEDDED, _MEASURED = 0.15, 0.85, 0.9


@dataclass(frozen=True)
class _FeedbackSet:
    """The feedback's pairs as a pair set, whose images are named by their SHA-256."""

    pair_set: PairSet
    crops: CropReader
    left_out: LeftOut


def evaluate_versions(
    version: Path,
    other: Path | None,
    *,
    feedback: FeedbackSource,
    trained_on: frozenset[str],
    workdir: Path,
    report: Report,
) -> tuple[EvaluationResult, Path, LeftOut]:
    """Evaluate a version on the pairs of a snapshot, each version at its own threshold.

    Args:
        version: Folder of the version.
        other: Folder of the version to compare with; None for no comparison.
        feedback: The snapshot.
        trained_on: SHA-256 of the images that the version was trained on.
        workdir: Folder for the crops and the page.
        report: Called with the progress.

    Returns:
        The result, the path of the HTML page that shows it, and what of the feedback could not
        be used.

    Raises:
        PreconditionFailed: If no pair of the snapshot can be used.
        CorruptData: If a version's output is not usable.
    """
    tick = stage_report(report, Stage.DECODING_IMAGES, "decoding images", 0, _DECODED)
    pairs = _read_pairs(feedback, workdir, tick)
    folders = [version] if other is None else [version, other]
    measured = _measure(folders, pairs, report)
    report(Progress(Stage.REPORTING, _MEASURED, "writing the report"))
    this, against = measured[0], measured[1] if other else None
    page = workdir / "report.html"
    write_report(page, pairs.pair_set, this, pairs.crops, against)
    result = EvaluationResult(
        model_version=this.name,
        data_snapshot=feedback.snapshot_id,
        pairs_trained_on=_count_pairs_with(trained_on, pairs.pair_set),
        evaluation=this.evaluation,
        against=_compare(against, this, pairs.pair_set) if against else None,
    )
    return result, page, pairs.left_out


def _read_pairs(
    feedback: FeedbackSource, workdir: Path, tick: Callable[[float], None]
) -> _FeedbackSet:
    decoded = decode_labelled(feedback, FaceReader(ImageLimits()), workdir / "crops.npy", tick)
    images, crops = decoded.images, decoded.crops
    usable, left_out = measured_pairs(decoded)
    if not usable:
        with left_out.named_in_refusals():
            raise PreconditionFailed(
                f"the snapshot has {left_out.of_pairs} pairs with a consensus of SAME or "
                "DIFFERENT, and none whose images can be read: label some pairs to measure on"
            )
    used, positions = renumber(links_of(images, usable).astype(np.int32))
    component = build_graph(images, usable).component
    pair_set = PairSet(
        images=tuple(Path(images[index]) for index in used),
        pairs=positions,
        labels=np.array([pair.same for pair in usable]),
        identities=tuple(str(component[index]) for index in used),
    )
    return _FeedbackSet(pair_set, lambda image: crops[used[image]], left_out)


def _measure(folders: list[Path], pairs: _FeedbackSet, report: Report) -> list[Measurement]:
    bounds = np.linspace(_DECODED, _EMBEDDED, len(folders) + 1)
    embedded = [
        _embed(
            folder,
            pairs,
            stage_report(report, Stage.EMBEDDING, f"embedding with {folder.name}", start, end),
        )
        for folder, (start, end) in zip(folders, pairwise(bounds), strict=True)
    ]
    report(Progress(Stage.EVALUATING, _EMBEDDED, "measuring"))
    return [
        measure(manifest.model_version, faces, pairs.pair_set, manifest.threshold)
        for manifest, faces in zip(map(read_manifest, folders), embedded, strict=True)
    ]


def _embed(folder: Path, pairs: _FeedbackSet, tick: Callable[[float], None]) -> EmbeddedSet:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        tick(done / len(pairs.pair_set.images))

    return embed_set(open_session(folder), pairs.pair_set, pairs.crops, progress=add)


def _compare(against: Measurement, this: Measurement, pair_set: PairSet) -> AgainstVersion:
    return AgainstVersion(
        model_version=against.name,
        evaluation=against.evaluation,
        comparison=compare(against, this, pair_set).comparison,
    )


def _count_pairs_with(images: frozenset[str], pair_set: PairSet) -> int:
    known = np.array([str(name) in images for name in pair_set.images])
    return int(known[pair_set.pairs].any(axis=1).sum())
