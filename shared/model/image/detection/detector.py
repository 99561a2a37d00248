"""Face detector: finds the faces of a picture, each confirmed by a second look."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.model.image.detection.chips import eye_distance
from shared.model.image.detection.choice import by_prominence
from shared.model.image.detection.refinement import Refined, Refiner
from shared.model.image.detection.search import QUARTERS, Candidate, Search, box_around
from shared.model.image.detection.yunet import YuNet
from shared.model.image.face import DetectedFace, Faces

# Upright faces that get a second look, largest first; the others of a crowd are left out.
_MOST_FACES: Final = 40
# The same for faces that may be turned, each of which takes some twenty looks at chips.
_MOST_SEARCHED: Final = 12
# Largest size at which turned pictures are searched.
_SEARCHED_TURNED: Final = 1280
# A second look below this shows no face.
_LEAST_SCORE: Final = 0.7
_MOST_SPREAD: Final = 0.3
# Landmarks whose middles are this many distances of the eyes apart lie on one face; those of an
# upright and an upside-down reading may be more than one apart, those of neighbours at least two.
_SAME_FACE: Final = 1.5
# Scores of upright faces: of the first and second look, and of the last looks at a chip. Of 60
# photographs upside down, a few reach the first and none the second.
_UPRIGHT_SCORE: Final = 0.9
_SETTLED_SCORE: Final = 0.92
# Candidates for one face within this of the best score are compared by their second looks.
_RIVAL_SCORE: Final = 0.25
# A confirmed face whose eyes are less than this share of the picture's longest side apart leaves
# room for a larger face that is turned.
_SMALL_FACE: Final = 0.08
# Such a face must be this many times as large.
_LARGER: Final = 1.2


class FaceDetector:
    """Finds faces that are turned, small, large or cut; threads may share it.

    The whole picture is looked at first, reduced to 640 pixels. A face that is seen there with
    confidence and upright is confirmed by one look at a chip, cut upright from the picture itself.
    Where a face is not confirmed, or none is seen, the picture is looked at after quarter turns,
    with a border, and at larger sizes in tiles, until a face is found. Of several orientations of
    one face the one whose chips have the highest score is taken.

    Args:
        path: YuNet's ONNX file.

    Raises:
        PreconditionFailed: If OpenCV cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        self._yunet = YuNet(path)

    def find(self, image: NDArray[np.uint8]) -> Faces:
        """Find all faces.

        Args:
            image: uint8, shape (height, width, 3), BGR.
        """
        height, width = image.shape[:2]
        hunt = _Hunt(Search(self._yunet, image), Refiner(self._yunet, image), max(height, width))
        faces = by_prominence([_detected(face) for face in hunt.run()], width, height)
        return Faces(faces, tuple(box_around(face.points) for face in hunt.uncertain))


class _Hunt:
    """Finds the faces of one picture.

    Args:
        search: Looks at the whole picture.
        refiner: Looks at one face.
        longest: Longest side of the picture, in pixels.

    Attributes:
        uncertain: Faces whose looks disagree.
    """

    def __init__(self, search: Search, refiner: Refiner, longest: int) -> None:
        self._search = search
        self._refiner = refiner
        self._longest = longest
        self.uncertain: list[Refined] = []

    def run(self) -> list[Refined]:
        """Return the faces that a second look confirmed."""
        first = _largest(self._search.whole(0))
        if first and (largest := _confirm(self._refiner, first[0])) is not None:
            others = (self._refiner.check(candidate) for candidate in first[1:_MOST_FACES])
            faces = [largest, *(face for face in others if face is not None)]
            return [*faces, *self._larger_turned(first, faces)]
        turned = self._turned()
        if faces := self._resolve([*first, *turned]):
            return faces
        faces = self._resolve([c for q in QUARTERS for c in self._search.wider(q)])
        for side in self._search.larger_sides():
            if faces:
                break
            # Tiles of the largest size take most of the time, so they are looked at upright only.
            quarters = QUARTERS if side <= _SEARCHED_TURNED else QUARTERS[:1]
            faces = self._resolve([c for q in quarters for c in self._search.tiles(side, q)])
        return faces

    def _turned(self) -> list[Candidate]:
        return [candidate for quarter in QUARTERS[1:] for candidate in self._search.whole(quarter)]

    def _larger_turned(self, first: list[Candidate], faces: list[Refined]) -> list[Refined]:
        """Find turned faces that are larger than the upright ones, which are small."""
        eyes = eye_distance(faces[0].points)
        if eyes >= _SMALL_FACE * self._longest:
            return []
        larger = [
            candidate
            for candidate in self._turned()
            if candidate.eyes > _LARGER * eyes
            and not any(_is_same(candidate.points, face.points) for face in faces)
        ]
        upright = [c for c in first if any(_is_same(c.points, other.points) for other in larger)]
        return self._resolve([*upright, *larger])

    def _resolve(self, candidates: Iterable[Candidate]) -> list[Refined]:
        """Find the faces behind candidates of several orientations."""
        found: list[Refined] = []
        for group in _groups(_largest(candidates)):
            if (settled := _best_orientation(self._refiner, group)) is None:
                continue
            if (face := _certain(self._refiner, group, settled)) is None:
                self.uncertain.append(settled)
            else:
                found.append(face)
        faces: list[Refined] = []
        for face in sorted(found, key=lambda f: -f.score):
            if not any(_is_same(face.points, other.points) for other in faces):
                faces.append(face)
        return faces


def _confirm(refiner: Refiner, candidate: Candidate) -> Refined | None:
    """Confirm a face that was seen upright; None if it may be turned."""
    if candidate.score < _UPRIGHT_SCORE:
        return None
    face = refiner.confirm(candidate)
    if face is not None and face.score >= _UPRIGHT_SCORE:
        return face
    settled = refiner.settle(candidate.points)
    if settled is None or settled.score < _SETTLED_SCORE or settled.spread > _MOST_SPREAD:
        return None
    return refiner.place(settled)


def _best_orientation(refiner: Refiner, group: list[Candidate]) -> Refined | None:
    """Return the face of the orientation that shows it best; None if no chip shows one."""
    settled = (refiner.settle(candidate.points) for candidate in _rivals(group))
    faces = [face for face in settled if face is not None]
    return max(faces, key=refiner.uprightness) if faces else None


def _certain(refiner: Refiner, group: list[Candidate], settled: Refined) -> Refined | None:
    """Return the landmarks of a face that settled; None if its looks disagree."""
    if settled.score < _LEAST_SCORE or settled.spread > _MOST_SPREAD:
        return None
    for candidate in _rivals(group):
        # A first look that the last ones agree with was right about the orientation.
        if refiner.agree(candidate, settled) and (face := refiner.confirm(candidate)) is not None:
            return face
    return refiner.place(settled)


def _rivals(group: list[Candidate]) -> list[Candidate]:
    best = max(candidate.score for candidate in group)
    return [candidate for candidate in group if candidate.score >= best - _RIVAL_SCORE]


def _groups(candidates: list[Candidate]) -> list[list[Candidate]]:
    """Group the candidates that show one face; each orientation appears once, with its best."""
    groups: list[list[Candidate]] = []
    for candidate in candidates:
        for group in groups:
            if _is_same(group[0].points, candidate.points):
                if all(candidate.quarter != other.quarter for other in group):
                    group.append(candidate)
                break
        else:
            groups.append([candidate])
    return groups[:_MOST_SEARCHED]


def _largest(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda c: -c.score * c.eyes)


def _is_same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Tell whether two sets of landmarks lie on one face, whatever their orientation."""
    size = max(eye_distance(one), eye_distance(other))
    apart = float(np.linalg.norm(one.mean(axis=0) - other.mean(axis=0)))
    return apart < _SAME_FACE * size


def _detected(face: Refined) -> DetectedFace:
    landmarks = tuple((x, y) for x, y in face.points.tolist())
    return DetectedFace(box_around(face.points), landmarks, face.score)
