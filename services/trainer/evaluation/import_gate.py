"""Gate of imported versions: decides from scores of reference faces whether one may serve.

Nobody trained on these faces, so they show whether the network tells people apart, and whether its
threshold is one for its scores.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from services.trainer.evaluation.gate import GateCheck, GateOutcome, GateVerdict
from shared.evaluation.calibration import fit_probability
from shared.evaluation.metrics import roc
from shared.evaluation.operating_point import (
    PeopleBootstrap,
    ScoredPeople,
    measure_curve,
    rate_of,
)
from shared.model.manifest import Manifest, ProbabilityCurve
from shared.model.operating_curve import HIGHEST_TARGET, Evidence, OperatingCurve, Rate

MIN_SEPARATION: Final = 0.75
"""Least area under the ROC curve. Pixels and untrained networks reach 0.74 on rendered people."""

MAX_FMR_RATIO: Final = 3.0
"""Most false matches, as a multiple of those at the threshold where both errors weigh the same."""

MAX_FMR: Final = 0.6
"""Highest false-match rate of a threshold, however alike the reference faces look."""

MAX_FNMR: Final = 0.9
"""Highest false-non-match rate of a threshold; even strict ones accept some genuine pairs."""

_SEED = 0


@dataclass(frozen=True)
class ImportCalibration:
    """What the reference faces say of an imported network.

    Attributes:
        pairs: Their scored pairs.
        probability: From a cosine similarity to the probability of a genuine pair.
        curve: The operating curve.
    """

    pairs: ScoredPeople
    probability: ProbabilityCurve
    curve: OperatingCurve

    @classmethod
    def of(cls, pairs: ScoredPeople) -> "ImportCalibration":
        """Calibrate a network.

        Raises:
            InvalidInput: If there is no genuine or no impostor pair.
        """
        return cls(pairs, fit_probability(pairs.scores), measure_curve([pairs], _SEED))

    @property
    def threshold(self) -> float:
        """Threshold at which both errors weigh the same."""
        return self.probability.even


def judge_import(
    manifest: Manifest,
    calibration: ImportCalibration,
    *,
    target_fmr: float | None,
    self_check: bool,
) -> GateVerdict:
    """Compare each figure with its limit.

    Args:
        manifest: Of the imported version.
        calibration: Of its network.
        target_fmr: The operator's target false-match rate; None for none.
        self_check: Whether the exported version, loaded again, reproduces its golden embeddings.
    """
    bootstrap = PeopleBootstrap(calibration.pairs, _SEED)
    checks = [
        _separation_check(calibration.pairs, bootstrap),
        *_threshold_checks(manifest.threshold, calibration, bootstrap),
    ]
    if target_fmr is not None:
        checks += _target_checks(target_fmr, calibration.curve)
    checks.append(
        GateCheck(
            "self_check",
            self_check,
            float(self_check),
            1.0,
            "the exported version, loaded again, reproduces its golden embeddings",
        )
    )
    verdict = GateVerdict(tuple(checks), target_fmr=target_fmr)
    if verdict.outcome is not GateOutcome.NOT_ENOUGH_EVIDENCE:
        return verdict
    undecided = [check for check in checks if check.undecided]
    missing = "; ".join(_missing(check, calibration.curve) for check in undecided)
    return replace(verdict, missing=missing)


def _missing(check: GateCheck, curve: OperatingCurve) -> str:
    """Say how many more people would decide a check."""
    if check.name == "target_fmr":
        more = curve.missing_people(check.limit)
        shows = f"resolve the target false-match rate {check.limit:g}"
    else:
        # The width of the interval falls with the square root of the people.
        low = check.value if check.low is None else check.low
        ratio = (check.value - low) / (check.value - check.limit)
        more = max(1, math.ceil(check.people * (ratio**2 - 1)))
        shows = "show whether the embeddings tell people apart"
    return f"{more:,} more people with reference faces would {shows}"


def _separation_check(pairs: ScoredPeople, bootstrap: PeopleBootstrap) -> GateCheck:
    value = roc(pairs.scores).auc
    rounds = bootstrap.auc(pairs.genuine_similarity, pairs.impostor_similarity)
    evidence = pairs.genuine_evidence()
    area = rate_of(value, rounds, evidence.people)
    return GateCheck(
        "separation",
        area.low >= MIN_SEPARATION,
        value,
        MIN_SEPARATION,
        f"AUC on reference faces {value:.4f}, where 0.5 is chance; the lower end of the 95 % "
        f"interval over people is {area.low:.4f} and must reach {MIN_SEPARATION:g}",
        low=area.low,
        high=area.high,
        people=evidence.people,
        pairs=evidence.pairs,
        undecided=area.low < MIN_SEPARATION < value,
    )


def _threshold_checks(
    threshold: float, calibration: ImportCalibration, bootstrap: PeopleBootstrap
) -> tuple[GateCheck, GateCheck]:
    """Judge the threshold at which the version serves where no target is set."""
    pairs, fitting = calibration.pairs, calibration.threshold
    even = float((pairs.impostor_similarity >= fitting).mean())
    limit = min(MAX_FMR, max(HIGHEST_TARGET, MAX_FMR_RATIO * even))
    accepted = pairs.impostor_similarity >= threshold
    rejected = pairs.genuine_similarity < threshold
    impostor, genuine = pairs.impostor_evidence(), pairs.genuine_evidence()
    fmr = rate_of(float(accepted.mean()), bootstrap.fmr(accepted), impostor.people)
    fnmr = rate_of(float(rejected.mean()), bootstrap.fnmr(rejected), genuine.people)
    proposal = f"a threshold of {fitting:.3f} has {even:.2%}"
    other = float((pairs.genuine_similarity < fitting).mean())
    return (
        _rate_check(
            "threshold_fmr",
            fmr,
            limit,
            f"pairs of strangers among the reference faces called SAME at the threshold "
            f"{threshold:.3f} {fmr.value:.2%}; {proposal}",
            impostor,
        ),
        _rate_check(
            "threshold_fnmr",
            fnmr,
            MAX_FNMR,
            f"pairs of one person among the reference faces called DIFFERENT at the threshold "
            f"{threshold:.3f} {fnmr.value:.2%}; a threshold of {fitting:.3f} has {other:.2%}",
            genuine,
        ),
    )


def _target_checks(target_fmr: float, curve: OperatingCurve) -> tuple[GateCheck, GateCheck]:
    """Judge the threshold at which the version serves at the operator's target."""
    point = curve.at(target_fmr)
    kept = curve.missing_people(target_fmr) == 0
    where = f"at the threshold {point.threshold:.3f}, which keeps {point.target:g}"
    return (
        GateCheck(
            "target_fmr",
            kept,
            point.fmr.value,
            target_fmr,
            f"false-match rate on reference faces {point.fmr.value:.3g} {where}",
            low=point.fmr.low,
            high=point.fmr.high,
            people=curve.impostor.people,
            pairs=curve.impostor.pairs,
            undecided=not kept,
        ),
        _rate_check(
            "target_fnmr",
            point.fnmr,
            MAX_FNMR,
            f"false-non-match rate on reference faces {point.fnmr.value:.2%} {where}",
            curve.genuine,
        ),
    )


def _rate_check(name: str, rate: Rate, limit: float, detail: str, evidence: Evidence) -> GateCheck:
    return GateCheck(
        name,
        rate.value <= limit,
        rate.value,
        limit,
        detail,
        low=rate.low,
        high=rate.high,
        people=evidence.people,
        pairs=evidence.pairs,
    )
