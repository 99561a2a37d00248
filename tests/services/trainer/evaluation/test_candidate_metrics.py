"""Measured figures of candidates with made-up features, and what the gate makes of them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest

from services.trainer.data.arrays import FeatureArray
from services.trainer.data.splits import EvaluationPairs, reference_pairs
from services.trainer.evaluation.candidate_metrics import (
    CandidateCalibration,
    ComparedFeatures,
    JudgedSetting,
    MeasuredPairs,
    balanced_error,
    calibrate,
    is_backward_compatible,
    judged_setting,
    lowest_balanced_error,
    measure_candidate,
    score_pairs,
)
from services.trainer.evaluation.gate import GateOutcome, GateVerdict, decide
from shared.evaluation.operating_point import PeopleBootstrap, joined, threshold_for
from shared.model.manifest import FileEntry, GoldenCrop, Manifest
from shared.model.operating_curve import Evidence, OperatingCurve, OperatingPoint, Rate

TARGET = 1e-2
BOTH = pytest.mark.parametrize("target", [TARGET, None])


class People:
    """Made-up people: a direction for each, and noise that differs by image."""

    def __init__(self, people: int, seed: int, images: int = 3, noise: float = 1.3) -> None:
        self.rng = np.random.default_rng(seed)
        self.persons = np.repeat(np.arange(people), images)
        self._centres = self.rng.normal(size=(people, 64))[self.persons]
        quality = np.exp(0.4 * self.rng.normal(size=(len(self.persons), 1)))
        self._magnitude = 20 * quality**-0.2
        self._noise = noise * quality
        self._error = self._draw()

    def _draw(self) -> np.ndarray:
        return self.rng.normal(size=self._centres.shape)

    def features(self, gain: float = 0.0, chance: float = 0.0) -> FeatureArray:
        """Features of a model.

        Args:
            gain: Share of the parent's noise that it does not have; 0 for the parent's noise.
            chance: Share of the noise that is its own instead of the parent's.
        """
        error = np.sqrt(1 - chance**2) * self._error + chance * self._draw()
        raw = self._centres + (1 - gain) * self._noise * error
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        return (self._magnitude * raw / length).astype(np.float32)

    def pairs(self, first: int, last: int) -> EvaluationPairs:
        chosen = np.flatnonzero((self.persons >= first) & (self.persons < last))
        return reference_pairs(self.persons, chosen, seed=0)


def manifest(threshold: float, curve: OperatingCurve | None = None) -> Manifest:
    """Manifest of a parent that serves at a threshold."""
    return Manifest(
        model_version="parent",
        architecture="iresnet18",
        embedding_size=64,
        channel_order="bgr",
        threshold=threshold,
        magnitude_quantiles=(10.0, 30.0),
        operating_curve=curve,
        parent_version=None,
        job_id="job",
        data_snapshot=None,
        created_at=datetime.now(UTC),
        files={"model.onnx": FileEntry(sha256="0" * 64, size=1)},
        golden=(GoldenCrop(png="", embedding="", magnitude=1.0),),
    )


@dataclass(frozen=True)
class Judged:
    held_out: MeasuredPairs
    reference: MeasuredPairs
    calibration: CandidateCalibration
    setting: JudgedSetting
    verdict: GateVerdict

    def refused(self) -> set[str]:
        return {check.name for check in self.verdict.checks if not check.passed}

    def value(self, name: str) -> float:
        return next(check.value for check in self.verdict.checks if check.name == name)


def judge(
    world: People,
    parent: FeatureArray,
    child: FeatureArray,
    *,
    target: float | None,
    on_reference: FeatureArray | None = None,
    people: int = 60,
    parent_threshold: float | None = None,
) -> Judged:
    """Judge a candidate on people 20.., with validation on the first 20 and 40 reference people.

    The parent's threshold weighs both errors equally, unless one is given.
    """
    validation, held_out = world.pairs(0, 20), world.pairs(20, 20 + people)
    features = ComparedFeatures(parent, child)
    measured = MeasuredPairs(features, held_out)
    faces = MeasuredPairs(
        features if on_reference is None else ComparedFeatures(parent, on_reference),
        world.pairs(20 + people, 60 + people),
    )
    calibration = calibrate(validation, measured, faces, seed=0)
    if parent_threshold is None:
        twin = MeasuredPairs(ComparedFeatures(parent, parent), held_out)
        parent_threshold = calibrate(validation, twin, faces, seed=0).threshold
    setting = judged_setting(
        measured,
        faces,
        parent=manifest(parent_threshold),
        child=calibration,
        target_fmr=target,
        seed=0,
    )
    figures = measure_candidate(measured, faces, setting, validation)
    return Judged(measured, faces, calibration, setting, decide(figures, self_check=True))


@BOTH
def test_a_real_gain_passes(target: float | None) -> None:
    world = People(120, seed=0)
    judged = judge(world, world.features(), world.features(gain=0.12), target=target)
    assert judged.refused() == set()
    assert judged.verdict.target_fmr == target


@BOTH
def test_an_unchanged_model_has_no_gain(target: float | None) -> None:
    world = People(120, seed=0)
    parent = world.features()
    judged = judge(world, parent, parent.copy(), target=target)
    assert judged.verdict.outcome is GateOutcome.FAILED
    assert judged.refused() == {"heldout_gain"}
    assert judged.value("heldout_gain") == 0


def test_more_false_matches_at_the_served_threshold_are_refused_while_the_auc_rises() -> None:
    # The parent serves at a strict threshold. The candidate, better in every respect, serves where
    # both errors weigh the same.
    world = People(120, seed=0)
    parent, child = world.features(), world.features(gain=0.12)
    judged = judge(world, parent, child, target=None, parent_threshold=0.5)
    assert judged.value("heldout_gain") > 0
    assert judged.refused() == {"heldout_fmr", "reference_fmr"}
    assert judged.verdict.outcome is GateOutcome.FAILED
    # At a target the same candidate keeps it.
    assert judge(world, parent, child, target=TARGET).refused() == set()


def test_false_matches_are_judged_at_the_threshold_that_serves() -> None:
    world = People(120, seed=0)
    parent, child = world.features(), world.features(gain=0.12)
    judged = judge(world, parent, child, target=TARGET)
    lower = judged.setting.served.child - 0.1
    curve = _curve_with(judged.calibration.curve, lower)
    calibration = CandidateCalibration(0.3, judged.calibration.probability, curve)
    setting = judged_setting(
        judged.held_out,
        judged.reference,
        parent=manifest(0.36),
        child=calibration,
        target_fmr=TARGET,
        seed=0,
    )
    figures = measure_candidate(judged.held_out, judged.reference, setting)
    refused = {check.name for check in decide(figures, self_check=True).checks if not check.passed}
    assert {"heldout_fmr", "reference_fmr"} <= refused
    assert "heldout_gain" not in refused


def _curve_with(curve: OperatingCurve, threshold: float) -> OperatingCurve:
    none = Rate(value=0, low=0, high=1)
    points = (
        OperatingPoint(target=1.0, threshold=-1.0, fmr=none, fnmr=none),
        OperatingPoint(target=TARGET, threshold=threshold, fmr=none, fnmr=none),
    )
    evidence = Evidence(pairs=curve.impostor.pairs, people=curve.impostor.people)
    return OperatingCurve(points=points, impostor=evidence, genuine=evidence)


@BOTH
def test_worse_on_reference_faces_is_refused(target: float | None) -> None:
    world = People(120, seed=0)
    judged = judge(
        world,
        world.features(),
        world.features(gain=0.12),
        on_reference=world.features(gain=-0.3, chance=0.3),
        target=target,
    )
    assert "reference_loss" in judged.refused()
    assert "heldout_gain" not in judged.refused()
    assert judged.verdict.outcome is GateOutcome.FAILED


@BOTH
def test_a_broken_magnitude_is_refused(target: float | None) -> None:
    world = People(120, seed=0)
    parent, child = world.features(), world.features(gain=0.12)
    assert judge(world, parent, 3 * child, target=target).refused() == {"magnitude_change"}
    length = np.linalg.norm(child, axis=1, keepdims=True)
    mixed_up = (child / length * world.rng.permutation(length)).astype(np.float32)
    assert "magnitude_order" in judge(world, parent, mixed_up, target=target).refused()


@BOTH
def test_another_space_is_not_compatible(target: float | None) -> None:
    world = People(120, seed=0)
    parent, child = world.features(), world.features(gain=0.12)
    rotation = np.linalg.qr(world.rng.normal(size=(64, 64)))[0]
    elsewhere = (child @ rotation).astype(np.float32)
    judged = judge(world, parent, elsewhere, target=target)
    assert "compatibility_loss" in judged.refused()
    assert "heldout_gain" not in judged.refused()


@pytest.mark.parametrize(("target", "gain"), [(TARGET, 0.04), (None, 0.02)])
def test_a_tenth_of_the_people_is_not_enough_evidence(target: float | None, gain: float) -> None:
    verdicts = []
    for people in (140, 14):
        world = People(60 + people, seed=1)
        parent, child = world.features(), world.features(gain, chance=0.1)
        verdicts.append(judge(world, parent, child, target=target, people=people).verdict)
    assert [verdict.outcome for verdict in verdicts] == [
        GateOutcome.PASSED,
        GateOutcome.NOT_ENOUGH_EVIDENCE,
    ]
    assert "more people with a genuine pair would show a gain of" in verdicts[1].missing


def pass_rate(child: Callable[[People], FeatureArray], target: float | None, seeds: int) -> float:
    passed = 0
    for seed in range(seeds):
        world = People(120, seed)
        passed += judge(world, world.features(), child(world), target=target).verdict.passed
    return passed / seeds


@BOTH
@pytest.mark.slow
def test_real_gains_pass(target: float | None) -> None:
    assert pass_rate(lambda world: world.features(0.08, chance=0.1), target, 200) >= 0.9


@BOTH
@pytest.mark.slow
def test_differences_by_chance_do_not_pass(target: float | None) -> None:
    assert pass_rate(lambda world: world.features(chance=0.1), target, 200) <= 0.05


def test_the_mixed_pairs_are_compared_both_ways() -> None:
    world = People(10, seed=0)
    old, new = world.features(), world.features(gain=0.3)
    pairs = world.pairs(0, 10)
    scores = score_pairs(pairs, new, old)
    assert len(scores) == 2 * len(pairs.genuine)
    a, b = pairs.images[0]
    cosine = float(new[a] @ old[b] / np.linalg.norm(new[a]) / np.linalg.norm(old[b]))
    assert scores.similarity[0] == pytest.approx(cosine, rel=1e-5)
    swapped = float(old[a] @ new[b] / np.linalg.norm(old[a]) / np.linalg.norm(new[b]))
    assert scores.similarity[len(pairs.genuine)] == pytest.approx(swapped, rel=1e-5)


@BOTH
def test_an_older_versions_stored_embeddings_are_measured_too(target: float | None) -> None:
    world = People(120, seed=0)
    parent = world.features()
    judged = judge(world, parent, world.features(gain=0.12), target=target)
    rotation = np.linalg.qr(world.rng.normal(size=(64, 64)))[0]
    elsewhere = (parent @ rotation).astype(np.float32)
    for stored, compatible in ((parent, True), (elsewhere, False)):
        assert compatible == is_backward_compatible(
            stored, judged.held_out, world.pairs(0, 20), judged.setting
        )


def test_the_threshold_lies_where_both_answers_are_as_likely() -> None:
    world = People(120, seed=0)
    judged = judge(world, world.features(), world.features(gain=0.12), target=None)
    even = np.array(judged.calibration.threshold)
    assert judged.calibration.probability(even) == pytest.approx(0.5)


def test_errors_count_both_classes_the_same() -> None:
    persons = np.array([0, 0, 1, 2, 3])
    features = np.eye(5, dtype=np.float32)
    features[1] = [0.6, 0.8, 0, 0, 0]
    pairs = reference_pairs(persons, np.arange(5), seed=0)
    scores = score_pairs(pairs, features)
    assert pairs.genuine.sum() == 1
    assert balanced_error(scores, 0.5) == 0
    assert balanced_error(scores, 0.7) == pytest.approx(0.5)
    assert balanced_error(scores, -1.0) == pytest.approx(0.5)


def test_no_threshold_makes_fewer_errors_than_the_lowest() -> None:
    world = People(60, seed=0)
    scores = score_pairs(world.pairs(0, 60), world.features())
    found = min(balanced_error(scores, threshold) for threshold in np.linspace(-0.5, 1, 3001))
    assert found == pytest.approx(lowest_balanced_error(scores), abs=2e-3)
    assert found >= lowest_balanced_error(scores) - 1e-9


def test_rounds_choose_their_thresholds_as_all_people_do() -> None:
    # With every person drawn once, a round is the whole set.
    world = People(40, seed=0)
    features = world.features()
    sets = [
        MeasuredPairs(ComparedFeatures(features, features), world.pairs(first, last)).scored(
            features
        )
        for first, last in ((0, 15), (15, 40))
    ]
    together = joined(sets)
    bootstrap = PeopleBootstrap(together, seed=0, rounds=3)
    bootstrap._drawn[:] = 1
    bootstrap._impostor_weight[:] = together.scores.impostor_pairs
    for fmr in (0.3, 0.01, 1e-3):
        expected = threshold_for(together.impostor_similarity, fmr)
        assert bootstrap.thresholds(together.impostor_similarity, fmr) == pytest.approx(expected)
