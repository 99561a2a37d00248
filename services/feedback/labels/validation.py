"""Validation of the numbers of a label; its texts are checked where the request is read."""

import math
from typing import Final

from services.feedback.labels.types import Feedback, Opinion
from shared.errors import InvalidInput

# Cosine similarities are rounded, and may exceed 1 a little.
_COSINE_LIMIT: Final = 1 + 1e-5


def check_numbers(feedback: Feedback) -> None:
    """Check the numbers of a label.

    Raises:
        InvalidInput: Naming the first field that is invalid.
    """
    if feedback.opinion is not None:
        _check_opinion(feedback.opinion)
    # Written so that NaN fails.
    if feedback.sureness is not None and not 0 <= feedback.sureness <= 1:
        raise InvalidInput("sureness", f"is {feedback.sureness}; it must be in 0..1")


def _check_opinion(opinion: Opinion) -> None:
    for name, cosine in (("similarity", opinion.similarity), ("threshold", opinion.threshold)):
        if not (math.isfinite(cosine) and abs(cosine) <= _COSINE_LIMIT):
            raise InvalidInput(f"opinion.{name}", f"is {cosine}; a cosine must be in -1..1")
