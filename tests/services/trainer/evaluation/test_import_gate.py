"""Gate of imported versions on made scores."""

from uuid import uuid4

import numpy as np
import pytest

from services.trainer.evaluation.gate import GateCheck, GateOutcome, GateVerdict
from services.trainer.evaluation.import_gate import ImportCalibration, judge_import
from shared.evaluation.operating_point import ScoredPeople
from shared.evaluation.scores import Scores
from shared.model.manifest import Manifest
from tests.services.trainer.samples import make_manifest


def scored(people: int, images: int, apart: float, seed: int = 0) -> ScoredPeople:
    """All pairs of the images of some people; a genuine pair scores higher by `apart`."""
    person = np.repeat(np.arange(people), images)
    first, second = np.triu_indices(len(person), 1)
    genuine = person[first] == person[second]
    similarity = np.random.default_rng(seed).normal(apart * genuine, 0.1)
    sides = np.stack([person[first], person[second]], axis=1).astype(np.int32)
    return ScoredPeople.of(Scores(np.clip(similarity, -1, 1), genuine), sides)


def judged(
    pairs: ScoredPeople,
    threshold: float | None = None,
    target_fmr: float | None = None,
    self_check: bool = True,
) -> GateVerdict:
    calibration = ImportCalibration.of(pairs)
    chosen = calibration.threshold if threshold is None else threshold
    manifest: Manifest = make_manifest("v1", uuid4()).model_copy(update={"threshold": chosen})
    return judge_import(manifest, calibration, target_fmr=target_fmr, self_check=self_check)


def check(verdict: GateVerdict, name: str) -> GateCheck:
    return next(check for check in verdict.checks if check.name == name)


def refused(verdict: GateVerdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def test_a_network_that_tells_people_apart_passes() -> None:
    verdict = judged(scored(40, 3, 0.5))
    assert verdict.outcome is GateOutcome.PASSED
    assert check(verdict, "separation").pairs == 40 * 3
    assert check(verdict, "threshold_fmr").pairs == 120 * 117 // 2
    assert (check(verdict, "threshold_fmr").people, verdict.missing) == (40, "")


@pytest.mark.parametrize("apart", [-0.2, 0.0, 0.05])
def test_a_network_that_does_not_fails(apart: float) -> None:
    verdict = judged(scored(40, 3, apart))
    assert "separation" in refused(verdict)
    assert (verdict.outcome, verdict.missing) == (GateOutcome.FAILED, "")


def test_few_people_are_not_enough_to_see_it() -> None:
    few, many = judged(scored(6, 2, 0.13)), judged(scored(100, 2, 0.13))
    assert few.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE
    assert refused(few) == {"separation"}
    assert "more people with reference faces would show" in few.missing
    assert many.passed


@pytest.mark.parametrize(
    ("threshold", "names"),
    [(-1.0, {"threshold_fmr"}), (0.05, {"threshold_fmr"}), (0.9, {"threshold_fnmr"})],
)
def test_a_threshold_that_does_not_fit_the_scores_fails(threshold: float, names: set[str]) -> None:
    verdict = judged(scored(40, 3, 0.5), threshold)
    assert refused(verdict) == names
    assert verdict.outcome is GateOutcome.FAILED


def test_a_target_is_judged_at_the_threshold_that_keeps_it() -> None:
    verdict = judged(scored(60, 3, 0.5), target_fmr=1e-2)
    assert (verdict.passed, verdict.target_fmr) == (True, 1e-2)
    kept = check(verdict, "target_fmr")
    assert kept.value <= kept.limit == 1e-2
    assert check(verdict, "target_fnmr").value < 0.2


def test_a_target_that_the_reference_does_not_resolve_is_not_decided() -> None:
    verdict = judged(scored(20, 2, 0.5), target_fmr=1e-5)
    assert verdict.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE
    assert refused(verdict) == {"target_fmr"}
    assert "more people with reference faces would resolve the target" in verdict.missing


def test_a_version_that_fails_its_self_check_fails() -> None:
    assert refused(judged(scored(40, 3, 0.5), self_check=False)) == {"self_check"}
