"""Images that a job leaves out, and how it says so."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import PreconditionFailed

_MOST_NAMED = 3
_DIGITS = 8


class LeftOutReason(StrEnum):
    """Why an image is left out."""

    # No face is found in it, or the crop shows none.
    NO_FACE = "no_face"
    # It cannot be decoded or aligned.
    UNREADABLE = "unreadable"
    # It is not stored any more.
    ERASED = "erased"
    # It is used, but counts as one picture with near-identical ones of the same person.
    NEAR_DUPLICATE = "near_duplicate"


_IN_WORDS = {
    LeftOutReason.NO_FACE: "without a face",
    LeftOutReason.UNREADABLE: "that cannot be read",
    LeftOutReason.ERASED: "not stored any more",
}


@dataclass(frozen=True)
class LeftOutImage:
    """An image that a job does not use.

    Attributes:
        reason: The kind of reason.
        detail: Explanation for a person.
    """

    sha256: str
    reason: LeftOutReason
    detail: str = ""


@dataclass(frozen=True)
class LeftOut:
    """What a job does not use of the feedback.

    Attributes:
        images: The images that are left out.
        of_images: Number of all labelled images.
        pairs: Number of labelled pairs that are left out with them.
        of_pairs: Number of all labelled pairs.
        repeated: Images that are near-identical to others; they are used, but count less.
        repeated_pairs: Labelled pairs that are not measured on, because they repeat others or are
            of near-identical pictures.
    """

    images: tuple[LeftOutImage, ...]
    of_images: int
    pairs: int
    of_pairs: int
    repeated: tuple[LeftOutImage, ...] = ()
    repeated_pairs: int = 0

    @property
    def listed(self) -> tuple[LeftOutImage, ...]:
        """All images that are left out or count less."""
        return (*self.images, *self.repeated)

    def describe(self) -> str:
        """Say what is left out and what counts less; empty if nothing is.

        The first few images are named by the first digits of their hash, because an erasure does
        not change messages.
        """
        sentences = []
        if self.images:
            parts = [
                _named([one for one in self.images if one.reason is reason], words)
                for reason, words in _IN_WORDS.items()
                if any(one.reason is reason for one in self.images)
            ]
            sentences.append(
                f"{len(self.images)} of {self.of_images} labelled images are left out, and with "
                f"them {self.pairs} of {self.of_pairs} pairs: {', '.join(parts)}"
            )
        if self.repeated:
            repeated = _named(self.repeated, "images are near-identical to others of the person")
            pairs = f"; {self.repeated_pairs} pairs are not measured" if self.repeated_pairs else ""
            sentences.append(f"{repeated} and count as one picture with them{pairs}")
        return "; ".join(sentences)

    @contextmanager
    def named_in_refusals(self) -> Iterator[None]:
        """Add what is left out to a refusal, so that nobody wonders where labels are."""
        try:
            yield
        except PreconditionFailed as error:
            if not self.listed:
                raise
            raise PreconditionFailed(f"{error}; {self.describe()}") from error


def _named(images: Sequence[LeftOutImage], words: str) -> str:
    if images[0].reason is LeftOutReason.ERASED:
        return f"{len(images)} {words}"
    names = [f"{one.sha256[:_DIGITS]}…" for one in images[:_MOST_NAMED]]
    if len(images) > _MOST_NAMED:
        names.append("…")
    return f"{len(images)} {words} ({', '.join(names)})"
