"""What a field must be before anything is done with it."""

import math
import re
from typing import Final

from services.feedback.labels.types import Feedback, Opinion
from shared.errors import InvalidInput

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TEXT_LIMIT: Final = 128
# Cosine similarities are sums of rounded products.
_COSINE_LIMIT: Final = 1 + 1e-5


def check_feedback(feedback: Feedback) -> None:
    """Check all fields but the images.

    Raises:
        InvalidInput: Naming the field and what is wrong with it.
    """
    check_text("annotator", feedback.annotator)
    check_text("idempotency_key", feedback.idempotency_key)
    if feedback.opinion is not None:
        _check_opinion(feedback.opinion)
    # NaN is in no range.
    if feedback.sureness is not None and not 0 <= feedback.sureness <= 1:
        raise InvalidInput("sureness", f"is {feedback.sureness}; 0..1 are possible")


def check_sha256(field: str, text: str) -> str:
    """Give a hash in the spelling it is stored in.

    Raises:
        InvalidInput: If it is not 64 hex digits.
    """
    spelled = text.lower()
    if not _SHA256.fullmatch(spelled):
        raise InvalidInput(field, f"is {text[:80]!r}; a SHA-256 is 64 hex digits")
    return spelled


def check_text(field: str, text: str) -> None:
    """Check a name that somebody chose.

    Raises:
        InvalidInput: If it has not 1..128 characters, is blank, or holds a NUL.
    """
    if not 1 <= len(text) <= _TEXT_LIMIT:
        raise InvalidInput(field, f"has {len(text)} characters; 1..{_TEXT_LIMIT} are needed")
    if not text.strip():
        raise InvalidInput(field, "is blank")
    if "\0" in text:
        raise InvalidInput(field, "holds a NUL character, which cannot be stored")


def _check_opinion(opinion: Opinion) -> None:
    check_text("opinion.model_version", opinion.model_version)
    for name, cosine in (("similarity", opinion.similarity), ("threshold", opinion.threshold)):
        if not (math.isfinite(cosine) and abs(cosine) <= _COSINE_LIMIT):
            raise InvalidInput(f"opinion.{name}", f"is {cosine}; a cosine is in -1..1")
