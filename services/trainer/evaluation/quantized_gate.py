"""Gate of quantized versions: decides from measured figures whether one may replace the full."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.trainer.evaluation.candidate_figures import Change, FalseMatches
from services.trainer.evaluation.gate import MAX_COMPATIBILITY_LOSS, GateCheck, GateVerdict

# Increase of the share of wrong decisions.
MAX_LOSS = 0.003
# Below this the network is a different one, whatever its errors on these faces.
MIN_COSINE = 0.95
# With fewer pairs, one wrong decision is more than MAX_LOSS.
MIN_FEEDBACK_PAIRS = math.ceil(1 / MAX_LOSS)


@dataclass(frozen=True, kw_only=True)
class QuantizedFigures:
    """Figures of a quantized version on people that it was not calibrated on.

    Errors are 0..1, each version's at its own threshold. Field names are the keys of the metrics
    in the manifest.

    Attributes:
        full_error: Mean of FNMR and FMR of the full version on reference faces.
        quantized_error: The same of the quantized version.
        mixed_error: Error on pairs of a quantized embedding and a stored one of the full version.
        feedback_pairs: Number of labelled pairs of the feedback, which may be 0.
        feedback_full_error: Share of these that the full version decides wrongly.
        feedback_quantized_error: The same of the quantized version.
        cosine_mean: Mean cosine similarity of the two versions' embeddings of a face.
        cosine_min: The smallest of these similarities.
        magnitude_ratio: Geometric mean of the quantized version's magnitudes over the full's.
        magnitude_order: Spearman's rank correlation of the magnitudes.
    """

    full_error: float
    quantized_error: float
    mixed_error: float
    feedback_pairs: int
    feedback_full_error: float
    feedback_quantized_error: float
    cosine_mean: float
    cosine_min: float
    magnitude_ratio: float
    magnitude_order: float


@dataclass(frozen=True)
class QuantizedAtPoint:
    """Errors on reference faces at an operating point, each version at its own threshold.

    Attributes:
        target_fmr: What the operator asks for.
        kept_fmr: What the threshold of the full version keeps.
        matches: False matches.
        fnmr: FNMR of the full and of the quantized version.
    """

    target_fmr: float
    kept_fmr: float
    matches: FalseMatches
    fnmr: Change


def decide_quantized(
    figures: QuantizedFigures,
    *,
    self_check: bool,
    at_point: QuantizedAtPoint | None = None,
    further: Sequence[GateCheck] = (),
) -> GateVerdict:
    """Compare each figure with its limit; NaN fails.

    Args:
        figures: The measured figures.
        at_point: The errors at the operating point; None without one.
        self_check: Whether the version, loaded again, reproduces its golden embeddings.
        further: Checks of other figures.
    """
    checks = [
        _loss_check(
            "reference_loss", "reference faces", figures.full_error, figures.quantized_error
        ),
        *_feedback_checks(figures),
        GateCheck(
            "compatibility_loss",
            figures.mixed_error - figures.full_error <= MAX_COMPATIBILITY_LOSS,
            figures.mixed_error - figures.full_error,
            MAX_COMPATIBILITY_LOSS,
            f"errors between new embeddings and stored ones {figures.mixed_error:.2%}, "
            f"between stored ones {figures.full_error:.2%}",
        ),
        GateCheck(
            "embedding_cosine",
            figures.cosine_mean >= MIN_COSINE,
            figures.cosine_mean,
            MIN_COSINE,
            "mean cosine similarity with the full version's embeddings; the smallest is "
            f"{figures.cosine_min:.4f}",
        ),
        GateCheck(
            "self_check",
            self_check,
            float(self_check),
            1.0,
            "the version, loaded again, reproduces its golden embeddings",
        ),
        *further,
    ]
    if at_point is None:
        return GateVerdict(tuple(checks))
    return GateVerdict((*checks, *_point_checks(at_point)), target_fmr=at_point.target_fmr)


def _point_checks(at_point: QuantizedAtPoint) -> tuple[GateCheck, GateCheck]:
    """Refuse what the interval over people shows to be worse."""
    matches, fnmr, kept = at_point.matches, at_point.fnmr, at_point.kept_fmr
    rate = matches.child
    low = math.nan if fnmr.low is None else fnmr.low
    return (
        GateCheck(
            "reference_fmr",
            rate.low <= kept,
            rate.value,
            kept,
            f"FMR on reference faces at the served threshold is {rate.value:.3%}, the full "
            f"version's {matches.parent:.3%}; the lower end of its interval must not be above "
            f"{kept:g}",
            rate.low,
            rate.high,
            matches.people,
            matches.pairs,
        ),
        GateCheck(
            "reference_fnmr",
            low <= MAX_LOSS,
            fnmr.rise,
            MAX_LOSS,
            f"FNMR on reference faces at the served threshold {fnmr.before:.2%} -> "
            f"{fnmr.after:.2%}; the lower end of the interval of its rise must not be above "
            f"{MAX_LOSS:g}",
            fnmr.low,
            fnmr.high,
            fnmr.people,
            fnmr.pairs,
        ),
    )


def _feedback_checks(figures: QuantizedFigures) -> list[GateCheck]:
    if figures.feedback_pairs < MIN_FEEDBACK_PAIRS:
        return []
    measured_on = f"the feedback's {figures.feedback_pairs} pairs"
    full, quantized = figures.feedback_full_error, figures.feedback_quantized_error
    return [_loss_check("feedback_loss", measured_on, full, quantized)]


def _loss_check(name: str, measured_on: str, full: float, quantized: float) -> GateCheck:
    loss = quantized - full
    detail = f"errors on {measured_on} {full:.2%} -> {quantized:.2%}, each at its own threshold"
    return GateCheck(name, loss <= MAX_LOSS, loss, MAX_LOSS, detail)
