"""Judging a candidate again: on its held-out people, and on people who were labelled since."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from services.trainer.data.arrays import FeatureArray
from services.trainer.data.batches import DecodedFeedback, decode_labelled
from services.trainer.data.label_noise import probable_labels
from services.trainer.data.labels import FeedbackSource, LabelledPair, images_of
from services.trainer.data.left_out import LeftOut
from services.trainer.data.pair_graph import build_graph, components, links_of
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.data.splits import feedback_pairs, split_reference
from services.trainer.evaluation.candidate_metrics import (
    CandidateCalibration,
    ComparedFeatures,
    MeasuredPairs,
    check_groups,
    judged_setting,
    measure_candidate,
)
from services.trainer.evaluation.gate import GateVerdict, decide
from services.trainer.progress import Progress, Report, Stage, stage_report
from services.trainer.training.features import features_at
from services.trainer.worker.quantizer import extract_features
from shared.errors import PreconditionFailed
from shared.model.golden import passes_self_check
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import Manifest, read_manifest
from shared.model.sessions.factory import open_session
from shared.settings import ImageLimits

# Share of the whole work that is done at the end of each stage.
_DECODED, _EMBEDDED = 0.3, 0.8


@dataclass(frozen=True)
class Judgement:
    """A new verdict on a version.

    Attributes:
        gate: The verdict.
        people: People with a genuine pair that it is based on.
        left_out: What of the feedback could not be used.
    """

    gate: GateVerdict
    people: int
    left_out: LeftOut


class UnseenPeople:
    """The pairs of a feedback snapshot between people whom a version was not trained on.

    Labels SAME connect the images of a person. Whoever has an image that the version was trained or
    validated on is left out with all images.

    Args:
        feedback: All pairs.
        seen: SHA-256 of the images that the version was trained or validated on.
    """

    def __init__(self, feedback: FeedbackSource, seen: frozenset[str]) -> None:
        self._feedback = feedback
        pairs = tuple(feedback.pairs())
        images = sorted(images_of(pairs))
        links = links_of(images, [pair for pair in pairs if pair.same])
        component = components(len(images), links)
        taken = np.unique(component[[image in seen for image in images]])
        unseen = {
            image for image, number in zip(images, component, strict=True) if number not in taken
        }
        self._pairs = tuple(pair for pair in pairs if {pair.sha256_a, pair.sha256_b} <= unseen)

    @property
    def snapshot_id(self) -> str:
        return self._feedback.snapshot_id

    def pairs(self) -> Iterator[LabelledPair]:
        return iter(self._pairs)

    def image(self, sha256: str) -> FaceImage:
        return self._feedback.image(sha256)


def judge_version(
    candidate: Path,
    parent: Path,
    *,
    feedback: UnseenPeople,
    reference: ReferenceFaces,
    target_fmr: float | None,
    seed: int,
    workdir: Path,
    report: Report,
) -> Judgement:
    """Measure a candidate and its parent on people that neither was trained on, and decide.

    Args:
        candidate: Folder of the candidate.
        parent: Folder of its parent.
        feedback: Pairs of people whom the candidate was not trained on.
        reference: The reference faces of the candidate's training.
        target_fmr: The operator's target false-match rate; None for none.
        seed: Seed of the candidate's training, which chose the reference people to measure on.
        workdir: Folder for the crops.
        report: Called with the progress.

    Raises:
        PreconditionFailed: If no labels show a person whom the candidate was not trained on.
        CorruptData: If a network outputs NaN or zero.
    """
    tick = stage_report(report, Stage.DECODING_IMAGES, "decoding images", 0, _DECODED)
    decoded = decode_labelled(feedback, FaceReader(ImageLimits()), workdir / "crops.npy", tick)
    manifests = read_manifest(candidate), read_manifest(parent)
    faces = split_reference(reference, seed)
    report(Progress(Stage.EMBEDDING, _DECODED, "embedding with both versions"))
    extract = [partial(extract_features, open_session(folder)) for folder in (parent, candidate)]
    measured = _measured_people(decoded, extract, manifests[1], seed)
    on_reference = [features_at(each, faces.crops, faces.pairs.images) for each in extract]
    report(Progress(Stage.EVALUATING, _EMBEDDED, "judging the candidate"))
    reference_pairs = MeasuredPairs(ComparedFeatures(*on_reference), faces.pairs)
    child = manifests[0]
    setting = judged_setting(
        measured,
        reference_pairs,
        parent=manifests[1],
        child=CandidateCalibration(child.threshold, child.probability, child.operating_curve),
        target_fmr=target_fmr,
        seed=seed,
    )
    figures = measure_candidate(measured, reference_pairs, setting)
    gate = decide(
        figures,
        self_check=passes_self_check(candidate),
        further=check_groups(faces.groups, reference_pairs, setting),
    )
    return Judgement(gate, figures.separation.people, decoded.left_out)


def _measured_people(
    decoded: DecodedFeedback, extract: list[partial[FeatureArray]], parent: Manifest, seed: int
) -> MeasuredPairs:
    if not decoded.pairs:
        raise _no_people()
    features = ComparedFeatures(*(each(decoded.crops) for each in extract))
    # The mean of both versions' similarities, so that neither chooses the labels.
    both = np.concatenate([_unit(features.parent), _unit(features.child)], axis=1)
    pairs = probable_labels(
        decoded.images, decoded.pairs, both, burst=decoded.burst, threshold=parent.threshold
    )
    graph = build_graph(decoded.images, pairs, decoded.burst)
    chosen = feedback_pairs(graph, np.arange(len(decoded.images)), seed)
    if not chosen.genuine.any() or chosen.genuine.all():
        raise _no_people()
    return MeasuredPairs(features, chosen)


def _no_people() -> PreconditionFailed:
    return PreconditionFailed(
        "no labels show two people with a genuine pair whom the version was not trained on; label "
        "pairs of other people first"
    )


def _unit(features: FeatureArray) -> FeatureArray:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)
