"""Gate of quantized versions: decides from measured figures whether one may replace the full."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from services.trainer.evaluation.candidate_figures import Change, FalseMatches
from services.trainer.evaluation.gate import (
    MAX_COMPATIBILITY_LOSS,
    MAX_REFERENCE_LOSS,
    GateCheck,
    GateVerdict,
)

# Increase of the share of wrong decisions.
MAX_LOSS = 0.003
# Below this the network is a different one, whatever its errors on these faces.
MIN_COSINE = 0.95
# With fewer pairs, one wrong decision is more than MAX_LOSS.
MIN_FEEDBACK_PAIRS = math.ceil(1 / MAX_LOSS)


@dataclass(frozen=True, kw_only=True)
class QuantizedFigures:
    """Figures of a quantized version on people that it was not calibrated on.

    Errors are 0..1, each version's at its own threshold.

    Attributes:
        reference: Mean of FNMR and FMR on reference faces, of the full and the quantized version.
        mixed_error: Error on pairs of a quantized embedding and a stored one of the full version.
        feedback_pairs: Number of labelled pairs of the feedback, which may be 0.
        feedback_full_error: Share of these that the full version decides wrongly.
        feedback_quantized_error: The same of the quantized version.
        cosine_mean: Mean cosine similarity of the two versions' embeddings of a face.
        cosine_min: The smallest of these similarities.
        magnitude_ratio: Geometric mean of the quantized version's magnitudes over the full's.
        magnitude_order: Spearman's rank correlation of the magnitudes.
    """

    reference: Change
    mixed_error: float
    feedback_pairs: int
    feedback_full_error: float
    feedback_quantized_error: float
    cosine_mean: float
    cosine_min: float
    magnitude_ratio: float
    magnitude_order: float

    def metrics(self) -> dict[str, float]:
        """Return the figures by name, for the manifest."""
        others = {name: value for name, value in asdict(self).items() if name != "reference"}
        return {
            "full_error": self.reference.before,
            "quantized_error": self.reference.after,
            **{name: float(value) for name, value in others.items()},
        }


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
        _reference_check(figures.reference),
        *_feedback_checks(figures),
        GateCheck(
            "compatibility_loss",
            figures.mixed_error - figures.reference.before <= MAX_COMPATIBILITY_LOSS,
            figures.mixed_error - figures.reference.before,
            MAX_COMPATIBILITY_LOSS,
            f"errors between new embeddings and stored ones {figures.mixed_error:.2%}, "
            f"between stored ones {figures.reference.before:.2%}",
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


def _reference_check(errors: Change) -> GateCheck:
    """Refuse what the interval over people shows to be worse, and any large loss."""
    low = math.nan if errors.low is None else errors.low
    return GateCheck(
        "reference_loss",
        low <= MAX_LOSS and errors.rise <= MAX_REFERENCE_LOSS,
        errors.rise,
        MAX_LOSS,
        f"errors on reference faces {errors.before:.2%} -> {errors.after:.2%}, each at its own "
        f"threshold; the lower end of the interval of the rise must not be above {MAX_LOSS:g}, "
        f"nor the rise above {MAX_REFERENCE_LOSS:g}",
        errors.low,
        errors.high,
        errors.people,
        errors.pairs,
    )


def _feedback_checks(figures: QuantizedFigures) -> list[GateCheck]:
    if figures.feedback_pairs < MIN_FEEDBACK_PAIRS:
        return []
    full, quantized = figures.feedback_full_error, figures.feedback_quantized_error
    loss = quantized - full
    detail = (
        f"errors on the feedback's {figures.feedback_pairs} pairs {full:.2%} -> {quantized:.2%}, "
        "each at its own threshold"
    )
    return [GateCheck("feedback_loss", loss <= MAX_LOSS, loss, MAX_LOSS, detail)]
