"""Metrics of a candidate beside its parent, on people that neither was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from scipy.stats import spearmanr

from services.trainer.data.arrays import FeatureArray
from services.trainer.data.splits import EvaluationPairs
from services.trainer.evaluation.candidate_figures import CandidateFigures, Change, JudgedPoint
from services.trainer.evaluation.gate import GateCheck, within_compatibility_limit
from services.trainer.evaluation.group_gate import ComparedGroup, group_checks
from services.trainer.evaluation.paired_errors import (
    ComparedScores,
    ErrorsAtTarget,
    ServedThresholds,
    area_under_roc,
    balanced_errors,
    false_matches,
    mixed_balanced_errors,
    mixed_false_matches,
    separation,
)
from shared.evaluation.calibration import fit_probability
from shared.evaluation.metrics import roc
from shared.evaluation.operating_point import ScoredPeople, measure_curve, threshold_for
from shared.evaluation.scores import Scores, pair_similarity
from shared.model.manifest import Manifest, ProbabilityCurve
from shared.model.operating_curve import OperatingCurve


@dataclass(frozen=True)
class ComparedFeatures:
    """Features of the same N images under two versions, not normalised.

    Attributes:
        parent: float32 [N, D].
        child: float32 [N, D], the candidate's.
    """

    parent: FeatureArray
    child: FeatureArray


@dataclass(frozen=True)
class MeasuredPairs:
    """Pairs to measure on, and the features of their images."""

    features: ComparedFeatures
    pairs: EvaluationPairs

    def scored(self, features: FeatureArray) -> ScoredPeople:
        """Score the pairs with one version's features."""
        return ScoredPeople.of(score_pairs(self.pairs, features), self.pairs.people)

    def compared(self) -> ComparedScores:
        """Score the pairs under both versions, and between a candidate's and a stored embedding."""
        parent, child = self.scored(self.features.parent), self.scored(self.features.child)
        mixed = score_pairs(self.pairs, self.features.child, self.features.parent).similarity
        return ComparedScores(parent, child, (mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]))


@dataclass(frozen=True)
class CandidateCalibration:
    """What a candidate serves with.

    Attributes:
        threshold: Cosine similarity at which the calibrated probability is one half. On few
            people the threshold with the fewest errors varies too much.
        probability: From a cosine similarity to the probability of a genuine pair.
        curve: Thresholds and error rates by false-match rate.
    """

    threshold: float
    probability: ProbabilityCurve | None
    curve: OperatingCurve | None


def calibrate(
    validation: EvaluationPairs, held_out: MeasuredPairs, reference: MeasuredPairs, seed: int
) -> CandidateCalibration:
    """Calibrate a candidate on people that it was not trained on.

    Args:
        validation: Pairs of other people of the feedback.
        held_out: Pairs of the people on whom the gate decides.
        reference: Pairs of the reference faces.
        seed: Seed of the bootstrap.
    """
    child = held_out.features.child
    measured = [held_out.scored(child), reference.scored(reference.features.child)]
    probability = fit_probability(_joined([score_pairs(validation, child), measured[0].scores]))
    return CandidateCalibration(probability.even, probability, measure_curve(measured, seed))


@dataclass(frozen=True)
class JudgedSetting:
    """What a candidate and its parent are compared at.

    Attributes:
        served: The thresholds at which they serve.
        matched: Thresholds at which they keep the same false-match rate on the same pairs; those
            at which they serve without a point.
        point: The operating point; None for equal error weights.
        seed: Seed of the bootstrap.
    """

    served: ServedThresholds
    matched: ServedThresholds
    point: JudgedPoint | None
    seed: int


def judged_setting(
    held_out: MeasuredPairs,
    reference: MeasuredPairs,
    *,
    parent: Manifest,
    child: CandidateCalibration,
    target_fmr: float | None,
    seed: int,
) -> JudgedSetting:
    """Find what a candidate and its parent are compared at.

    Args:
        held_out: Pairs of people of the feedback.
        reference: Pairs of the reference faces.
        parent: Manifest of the parent.
        child: What the candidate serves with.
        target_fmr: The operator's target false-match rate; None for none.
        seed: Seed of the bootstrap.
    """
    if target_fmr is None:
        own = ServedThresholds(parent.threshold, child.threshold)
        return JudgedSetting(own, own, None, seed)
    sets = (held_out, reference)
    before, after = (
        measure_curve([each.scored(side(each.features)) for each in sets], seed)
        for side in (attrgetter("parent"), attrgetter("child"))
    )
    old, new = before.at(target_fmr), after.at(target_fmr)
    serving = parent.kept_point(target_fmr) or old
    served = child.curve.at(target_fmr) if child.curve else new
    point = JudgedPoint(target_fmr, max(old.target, new.target), max(served.target, target_fmr))
    matched = [curve.at(point.kept_fmr).threshold for curve in (before, after)]
    return JudgedSetting(
        ServedThresholds(serving.threshold, served.threshold),
        ServedThresholds(*matched),
        point,
        seed,
    )


def measure_candidate(
    held_out: MeasuredPairs,
    reference: MeasuredPairs,
    setting: JudgedSetting,
    validation: EvaluationPairs | None = None,
) -> CandidateFigures:
    """Measure everything that the gate needs.

    Args:
        held_out: Pairs of people of the feedback, on which the gate decides.
        reference: Pairs of the reference faces.
        setting: What both versions serve at.
        validation: Pairs of other people of the feedback, for thresholds that weigh both errors
            equally; None calibrates these on the held-out pairs.
    """
    compared, faces, seed = held_out.compared(), reference.compared(), setting.seed
    even = _even_thresholds(held_out, validation)
    ratio, order = _compare_used_magnitudes([held_out, reference])
    evidence = compared.child.genuine_evidence()
    if setting.point is None:
        fnmr = None
        areas = separation(compared, seed)
        on_reference = balanced_errors(faces, _even_thresholds(reference), seed)
        compatibility = mixed_balanced_errors(compared, even, seed)
    else:
        at_target = ErrorsAtTarget(compared, faces, setting.point.kept_fmr, seed)
        fnmr = at_target.held_out()
        areas = Change(
            area_under_roc(compared.parent),
            area_under_roc(compared.child),
            people=evidence.people,
            pairs=evidence.pairs,
        )
        on_reference, compatibility = at_target.reference(), at_target.mixed()
    return CandidateFigures(
        point=setting.point,
        separation=areas,
        errors=balanced_errors(compared, even, seed),
        fnmr=fnmr,
        heldout_matches=false_matches(compared, setting.served, seed),
        reference_matches=false_matches(faces, setting.served, seed),
        reference=on_reference,
        compatibility=compatibility,
        mixed_matches=mixed_false_matches(compared, setting.served, seed),
        magnitude_ratio=ratio,
        magnitude_order=order,
    )


def check_groups(
    groups: Sequence[str], reference: MeasuredPairs, setting: JudgedSetting
) -> tuple[GateCheck, ...]:
    """Check that no group of the reference people gets worse; see `group_checks`.

    Args:
        groups: The group of each person by number, "" for none.
        reference: Pairs of these people.
        setting: What both versions are compared at.
    """
    return group_checks(
        compare_groups(groups, reference.pairs, reference.features),
        thresholds=setting.matched,
        at_target=setting.point is not None,
        seed=setting.seed,
    )


def compare_groups(
    groups: Sequence[str], pairs: EvaluationPairs, features: ComparedFeatures
) -> list[ComparedGroup]:
    """Score the pairs within each group under both versions.

    Args:
        groups: The group of each person by number, "" for none.
        pairs: Pairs of these people.
        features: Features of the images.
    """
    group = np.array(groups)[pairs.people] if groups else np.empty((0, 2))
    compared = []
    for name in sorted({*groups} - {""}):
        within = (group == name).all(axis=1)
        if not within.any():
            compared.append(ComparedGroup(name, None, None))
            continue
        own = EvaluationPairs(pairs.images[within], pairs.genuine[within], pairs.people[within])
        measured = MeasuredPairs(features, own)
        scored = (measured.scored(each) for each in (features.parent, features.child))
        compared.append(ComparedGroup(name, *scored))
    return compared


def is_backward_compatible(
    stored: FeatureArray,
    held_out: MeasuredPairs,
    validation: EvaluationPairs,
    setting: JudgedSetting,
) -> bool:
    """Tell whether an earlier version's stored embeddings can be compared with a candidate's.

    Args:
        stored: float32 [N, D], the earlier version's features, not normalised.
        held_out: Pairs of people that the candidate was not trained on.
        validation: Pairs of other people, for thresholds that weigh both errors equally.
        setting: What the candidate serves at.
    """
    pairs = replace(held_out, features=replace(held_out.features, parent=stored))
    compared = pairs.compared()
    point = setting.point
    if point is None:
        even = _even_thresholds(pairs, validation)
        errors = mixed_balanced_errors(compared, even, setting.seed)
        return within_compatibility_limit(mixed_error=errors.after, stored_error=errors.before)
    impostor = compared.parent.impostor_similarity
    threshold = threshold_for(impostor, max(point.kept_fmr, 1 / len(impostor)))
    child = setting.served.child
    mixed = [similarity[compared.genuine] < child for similarity in compared.mixed]
    served = replace(setting.served, parent=threshold)
    matches = mixed_false_matches(compared, served, setting.seed)
    return matches.child.low <= point.served_fmr and within_compatibility_limit(
        mixed_error=float(np.mean(mixed)),
        stored_error=float((compared.parent.genuine_similarity < threshold).mean()),
    )


def score_pairs(
    pairs: EvaluationPairs, features: FeatureArray, stored: FeatureArray | None = None
) -> Scores:
    """Compute the cosine similarities of pairs.

    Args:
        pairs: P pairs.
        features: float32 [N, D], not normalised; only rows of images of the pairs are used.
        stored: float32 [N, D], another version's features of the same images. Each pair is
            then scored twice: with one image stored, and with the other.

    Returns:
        P scores, or 2 P with `stored`.
    """
    images, places = np.unique(pairs.images, return_inverse=True)
    places = places.reshape(pairs.images.shape)
    unit = _unit(features[images])
    if stored is None:
        return Scores(pair_similarity(unit, places), pairs.genuine)
    both = np.concatenate([unit, _unit(stored[images])])
    crossed = [
        places + np.array([[0, len(images)]]),
        places[:, ::-1] + np.array([[0, len(images)]]),
    ]
    return Scores(pair_similarity(both, np.concatenate(crossed)), np.tile(pairs.genuine, 2))


def balanced_error(scores: Scores, threshold: float) -> float:
    """Mean of FNMR and FMR at a threshold."""
    wrong = scores.decisions(threshold) != scores.genuine
    return float((wrong[scores.genuine].mean() + wrong[~scores.genuine].mean()) / 2)


def lowest_balanced_error(scores: Scores) -> float:
    """Lowest mean of FNMR and FMR at any threshold."""
    genuine = scores.genuine
    balanced = np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum())
    return 1 - roc(scores, balanced).best()[1]


def compare_magnitudes(child: FeatureArray, parent: FeatureArray) -> tuple[float, float]:
    """Return the geometric mean of the magnitude ratios, and the rank correlation.

    Args:
        child: float32 [N, D].
        parent: float32 [N, D], of the same images.
    """
    new, old = (np.linalg.norm(features, axis=1) for features in (child, parent))
    return float(np.exp(np.log(new / old).mean())), float(spearmanr(new, old).statistic)


def _even_thresholds(
    measured: MeasuredPairs, calibration: EvaluationPairs | None = None
) -> ServedThresholds:
    """Calibrate thresholds that weigh both errors equally; without other pairs, on the same."""
    old, new = (
        fit_probability(score_pairs(calibration or measured.pairs, features)).even
        for features in (measured.features.parent, measured.features.child)
    )
    return ServedThresholds(old, new)


def _compare_used_magnitudes(sets: Sequence[MeasuredPairs]) -> tuple[float, float]:
    used = [(each.features, np.unique(each.pairs.images)) for each in sets]
    return compare_magnitudes(
        np.concatenate([features.child[images] for features, images in used]),
        np.concatenate([features.parent[images] for features, images in used]),
    )


def _joined(parts: Sequence[Scores]) -> Scores:
    return Scores(
        np.concatenate([part.similarity for part in parts]),
        np.concatenate([part.genuine for part in parts]),
    )


def _unit(features: FeatureArray) -> FeatureArray:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)
