"""Whether a quantized version may stand in for the full one: decided on figures alone."""

import math
from dataclasses import dataclass

from services.trainer.evaluation.gate import MAX_COMPATIBILITY_LOSS, GateCheck, GateVerdict

# Of the share of wrong decisions.
MAX_LOSS = 0.003
# Below this it is another network, whatever its errors on these faces.
MIN_COSINE = 0.95
# With fewer, one pair is more than the loss that is to be noticed.
MIN_FEEDBACK_PAIRS = math.ceil(1 / MAX_LOSS)


@dataclass(frozen=True, kw_only=True)
class QuantizedFigures:
    """The quantized version beside the full one, on people that it was not calibrated on.

    Errors are 0..1, each version's at its own threshold.

    Attributes:
        full_error: Mean of FNMR and FMR on the reference's people.
        quantized_error: The same of the quantized version.
        mixed_error: Of pairs of a new embedding and a stored one of the full version.
        feedback_pairs: Labelled pairs of the feedback; 0 where there is none.
        feedback_full_error: Share of these that are decided wrongly.
        feedback_quantized_error: The same of the quantized version.
        cosine_mean: Between the two versions' embeddings of a face.
        cosine_min: The same of the face that they agree on least.
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


def decide_quantized(figures: QuantizedFigures, *, self_check: bool) -> GateVerdict:
    """Hold each figure against its limit; a figure that is no number fails.

    Args:
        figures: What was measured.
        self_check: Whether the version, loaded again, gives what it gave when it was made.
    """
    checks = [
        _loss("reference_loss", "reference faces", figures.full_error, figures.quantized_error),
        GateCheck(
            "compatibility_loss",
            figures.mixed_error - figures.full_error <= MAX_COMPATIBILITY_LOSS,
            figures.mixed_error - figures.full_error,
            MAX_COMPATIBILITY_LOSS,
            f"errors between new embeddings and stored ones {figures.mixed_error:.2%}, "
            f"among stored ones {figures.full_error:.2%}",
        ),
        GateCheck(
            "embedding_cosine",
            figures.cosine_mean >= MIN_COSINE,
            figures.cosine_mean,
            MIN_COSINE,
            f"mean cosine to the full version's embeddings; the smallest is "
            f"{figures.cosine_min:.4f}",
        ),
        GateCheck(
            "self_check",
            self_check,
            float(self_check),
            1.0,
            "the version gives its golden embeddings when it is loaded",
        ),
    ]
    if figures.feedback_pairs >= MIN_FEEDBACK_PAIRS:
        what = f"the feedback's {figures.feedback_pairs} pairs"
        full, quantized = figures.feedback_full_error, figures.feedback_quantized_error
        checks.insert(1, _loss("feedback_loss", what, full, quantized))
    return GateVerdict(tuple(checks))


def _loss(name: str, what: str, full: float, quantized: float) -> GateCheck:
    loss = quantized - full
    detail = f"errors on {what} {full:.2%} -> {quantized:.2%}, each at its own threshold"
    return GateCheck(name, loss <= MAX_LOSS, loss, MAX_LOSS, detail)
