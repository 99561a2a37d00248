"""Similarities of labelled pairs: what every figure of verification is computed from."""

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
        genuine: bool, (P,): whether the pair is of one person.

    Raises:
        InvalidInput: If the shapes differ, there is no pair, or a similarity is not finite.
    """

    similarity: NDArray[np.float64]
    genuine: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.similarity.ndim != 1 or self.similarity.shape != self.genuine.shape:
            raise InvalidInput(
                "scores",
                f"one similarity and one label a pair are needed, not arrays of shape "
                f"{self.similarity.shape} and {self.genuine.shape}",
            )
        if self.similarity.size == 0:
            raise InvalidInput("scores", "there is no pair to measure")
        if not np.isfinite(self.similarity).all():
            bad = int(np.flatnonzero(~np.isfinite(self.similarity))[0])
            raise InvalidInput(
                f"scores[{bad}]",
                f"the similarity is {self.similarity[bad]}, not a number; "
                "the model gave a broken embedding for one of the two images",
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
        """Whether each pair is called the same person: similarity >= threshold."""
        return self.similarity >= threshold

    def need_both_classes(self, figure: str) -> None:
        """Refuse a figure that is not defined without genuine and impostor pairs."""
        if not self.genuine_pairs or not self.impostor_pairs:
            raise InvalidInput(
                "scores",
                f"{figure} needs genuine and impostor pairs; there are "
                f"{self.genuine_pairs} and {self.impostor_pairs}",
            )


def pair_similarity(
    embeddings: NDArray[np.float32], pairs: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Cosine similarity of pairs of unit embeddings.

    Args:
        embeddings: (N, D), each row of length 1.
        pairs: (P, 2) row numbers.

    Returns:
        (P,) similarities. Works in slices, so that memory stays bounded by the embeddings.
    """
    similarity = np.empty(len(pairs), dtype=np.float64)
    step = 8192
    for start in range(0, len(pairs), step):
        left, right = pairs[start : start + step].T
        similarity[start : start + step] = np.einsum(
            "pd,pd->p", embeddings[left], embeddings[right], dtype=np.float64
        )
    return similarity
