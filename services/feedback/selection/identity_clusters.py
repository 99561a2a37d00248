"""Guesses which images show the same person."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]

# A chain of lookalikes must not make one person of half the pool.
_LARGEST: Final = 50


def cluster(
    images: int, links: IndexArray, similarity: NDArray[np.float64], persons: IndexArray | None = None
) -> IndexArray:
    """Number the guessed persons of N images: int64 [N].

    Args:
        images: N.
        links: int64 [L, 2], images that are surely of one person.
        similarity: float [L]; the most similar are joined first.
        persons: int64 [N], who is known to be on an image, -1 where nobody; two known
            persons are never joined.
    """
    parent = list(range(images))
    size = [1] * images
    known = [-1] * images if persons is None else persons.tolist()
    first_of: dict[int, int] = {}

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    def join(one: int, other: int) -> None:
        parent[other] = one
        size[one] += size[other]
        known[one] = max(known[one], known[other])

    for image, person in enumerate(known):
        if person >= 0 and (first := first_of.setdefault(person, image)) != image:
            join(root(first), root(image))
    for place in np.argsort(-similarity).tolist():
        one, other = (root(image) for image in links[place].tolist())
        strangers = known[one] >= 0 and known[other] >= 0 and known[one] != known[other]
        if one != other and not strangers and size[one] + size[other] <= _LARGEST:
            join(one, other)
    return np.array([root(image) for image in range(images)], np.int64)
