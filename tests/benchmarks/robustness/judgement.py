"""Embeds what a procedure finds, and compares the decisions with those for other pictures."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput
from shared.model.image.align import align_face
from shared.model.image.face import DetectedFace
from shared.model.sessions.base import Session, split_features
from tests.benchmarks.robustness.people import Person, Picture

# Returns the face to compare, or raises InvalidInput.
Choose = Callable[[Picture], DetectedFace]
# By place of the person; a missed face has none.
Embeddings = dict[int, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a procedure fared with one variant of all photographs.

    Attributes:
        missed: Photographs that were refused or in which no face was found.
        genuine_flips: Decisions against the same person that differ from the reference's.
        impostor_flips: The same against another person.
        mean_cosine: Of the embeddings with those of the reference.
        least_cosine: The smallest of them.
    """

    missed: int
    genuine_flips: int
    impostor_flips: int
    mean_cosine: float
    least_cosine: float

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


class Judge:
    """Compares photographs with aligned crops.

    Args:
        session: The network.
        threshold: Least similarity of a SAME decision.
        people: The same people, in the same order, whose photographs are judged.
    """

    def __init__(self, session: Session, threshold: float, people: list[Person]) -> None:
        self._session = session
        self._threshold = threshold
        self._count = len(people)
        same = {place: person.same for place, person in enumerate(people)}
        self._same = self._features({i: crop for i, crop in same.items() if crop is not None})
        self._other = self._features({i: person.other for i, person in enumerate(people)})

    def embed(self, choose: Choose, pictures: Iterable[Picture]) -> Embeddings:
        """Embed the face that a procedure chooses in each picture."""
        crops = {}
        for place, picture in enumerate(pictures):
            try:
                crops[place] = align_face(picture, choose(picture).landmarks)
            except InvalidInput:
                continue
        return self._features(crops)

    def compare(self, seen: Embeddings, reference: Embeddings) -> Outcome:
        """Compare embeddings and decisions with those of the reference."""
        both = [place for place in seen if place in reference]
        cosines = [float(seen[place] @ reference[place]) for place in both] or [0.0]
        genuine, impostor = (
            sum(
                self._is_same(seen[place], against[place])
                != self._is_same(reference[place], against[place])
                for place in both
                if place in against
            )
            for against in (self._same, self._other)
        )
        missed = self._count - len(seen)
        return Outcome(missed, genuine, impostor, float(np.mean(cosines)), min(cosines))

    def _is_same(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
        return bool(one @ other >= self._threshold)

    def _features(self, crops: dict[int, Picture]) -> Embeddings:
        places = list(crops)
        found: Embeddings = {}
        for start in range(0, len(places), 64):
            some = places[start : start + 64]
            raw = self._session.run(np.stack([crops[place] for place in some]))
            found |= dict(zip(some, split_features(raw)[0], strict=True))
        return found
