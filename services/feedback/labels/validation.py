"""Checks of a label's figures; its texts are checked where the request is read."""

import math
from typing import Final

from services.feedback.labels.types import Feedback, Opinion
from shared.errors import InvalidInput

# Cosine similarities are sums of rounded products.
_COSINE_LIMIT: Final = 1 + 1e-5


def check_feedback(feedback: Feedback) -> None:
    """Check the figures.

    Raises:
        InvalidInput: Naming the field and what is wrong with it.
    """
    if feedback.opinion is not None:
        _check_opinion(feedback.opinion)
    # NaN is in no range.
    if feedback.sureness is not None and not 0 <= feedback.sureness <= 1:
        raise InvalidInput("sureness", f"is {feedback.sureness}; 0..1 are possible")


def _check_opinion(opinion: Opinion) -> None:
    for name, cosine in (("similarity", opinion.similarity), ("threshold", opinion.threshold)):
        if not (math.isfinite(cosine) and abs(cosine) <= _COSINE_LIMIT):
            raise InvalidInput(f"opinion.{name}", f"is {cosine}; a cosine is in -1..1")
