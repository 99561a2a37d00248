"""Scored pairs: the similarities and labels from which verification metrics are computed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput


@dataclass(frozen=True)
class Scores:
    """Scored pairs.

    Attributes:
        similarity: float64, (P,): cosine similarity of each pair.
        genuine: bool, (P,): True where both images show the same person.

    Raises:
        InvalidInput: If the shapes differ, there is no pair, or a similarity is not finite.
    """

    similarity: NDArray[np.float64]
    genuine: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.similarity.ndim != 1 or self.similarity.shape != self.genuine.shape:
            raise InvalidInput(
                "scores",
                f"each pair needs one similarity and one label, not arrays of shape "
                f"{self.similarity.shape} and {self.genuine.shape}",
            )
        if self.similarity.size == 0:
            raise InvalidInput("scores", "there are no pairs")
        if not np.isfinite(self.similarity).all():
            bad = int(np.flatnonzero(~np.isfinite(self.similarity))[0])
            raise InvalidInput(
                f"scores[{bad}]",
                f"the similarity is {self.similarity[bad]}, not a number; "
                "the embedding of one of the two images is invalid",
            )

    @property
    def genuine_pairs(self) -> int:
        return int(self.genuine.sum())

    @property
    def impostor_pairs(self) -> int:
        return len(self) - self.genuine_pairs

    def __len__(self) -> int:
        return int(self.similarity.size)

    def decisions(self, threshold: float) -> NDArray[np.bool_]:
        """Return which pairs are accepted: similarity >= threshold, bool (P,)."""
        return self.similarity >= threshold

    def need_both_classes(self, figure: str) -> None:
        """Raise InvalidInput unless there are genuine and impostor pairs."""
        if not self.genuine_pairs or not self.impostor_pairs:
            raise InvalidInput(
                "scores",
                f"{figure} needs genuine and impostor pairs; there are "
                f"{self.genuine_pairs} and {self.impostor_pairs}",
            )


def pair_similarity(
    embeddings: NDArray[np.float32], pairs: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Compute the cosine similarity of pairs of unit embeddings.

    Args:
        embeddings: (N, D), each row of length 1.
        pairs: (P, 2) row indices.

    Returns:
        float64 (P,). It works in slices, so memory is bounded by the embeddings.
    """
    similarity = np.empty(len(pairs), dtype=np.float64)
    step = 8192
    for start in range(0, len(pairs), step):
        left, right = pairs[start : start + step].T
        similarity[start : start + step] = np.einsum(
            "pd,pd->p", embeddings[left], embeddings[right], dtype=np.float64
        )
    return similarity
