"""Identity clusters: a guess at which images show the same person."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

# Keeps a chain of lookalikes from joining half of the pool.
_LARGEST_CLUSTER: Final = 50


def cluster(
    images: int,
    links: NDArray[np.int64],
    similarity: NDArray[np.float64],
    persons: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Assign a cluster number to each of N images, by single linkage: int64 [N].

    Args:
        images: N.
        links: int64 [L, 2], pairs of images that very probably show one person.
        similarity: float [L]; the most similar are joined first.
        persons: int64 [N], the person on each image if known, else -1. Two known persons are
            never joined.
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
    for link in np.argsort(-similarity).tolist():
        one, other = (root(image) for image in links[link].tolist())
        two_persons = known[one] >= 0 and known[other] >= 0 and known[one] != known[other]
        if one != other and not two_persons and size[one] + size[other] <= _LARGEST_CLUSTER:
            join(one, other)
    return np.array([root(image) for image in range(images)], np.int64)
