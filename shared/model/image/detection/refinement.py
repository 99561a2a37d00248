"""The second look at a face: its landmarks from upright chips, and how sure they are."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.model.image.detection.chips import (
    ChipLook,
    ChipSize,
    eye_distance,
    look_at_chip,
    roll,
    with_roll,
)
from shared.model.image.detection.search import Candidate
from shared.model.image.detection.yunet import Points, YuNet

# YuNet makes tilted faces look more upright than they are, in small faces by two thirds of the
# tilt, in faces of this size hardly.
_LARGE: Final = ChipSize(288, 2.2)
_QUICK: Final = ChipSize(160, 1.4)
_SMALL: Final = ChipSize(112, 0.9)
_FINAL: Final = ((ChipSize(288, 2.2), False), (ChipSize(288, 2.2), True))
# Turns of more degrees than this in one step are repeated.
_STEP: Final = 6.0
_MAX_STEPS: Final = 4
# Share of the best anchor in the landmarks of an upright face; the rest is the mean of all anchors.
# Both are of the first look, with which earlier versions stored their embeddings: one look's error
# is as large as what the embedding tolerates. The second look confirms them.
_BEST_SHARE: Final = 0.8
# Looks that find what an upright photograph's first look shows on average: the face has the size
# that it often has there and as much around it, at several places of the detector's grid.
_PLACING: Final = tuple(ChipSize(256, zoom, shift) for zoom in (1.0, 1.16, 1.3) for shift in (0, 8))
_PLACING_BEST_SHARE: Final = 0.25
# The first look counts if it saw the eyes at about the distance that they have in a crop.
_SEEN_EYES: Final = (31.0, 56.0)
# Degrees. A face that looks tilted by more than the first is looked at in a large chip, and
# is tilted if that says more than the second.
_SURELY_UPRIGHT: Final = 6.0
_UPRIGHT: Final = 10.0
# Mean distance of the landmarks of two looks, as a share of the distance of the eyes.
_AGREEMENT: Final = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Landmarks after the second look.

    Attributes:
        points: float32 (5, 2), in pixels of the picture.
        score: Mean of the looks, 0..1.
        spread: Largest mean distance of a look's landmarks from the mean of the looks, as a share
            of the distance of the eyes.
    """

    points: Points
    score: float
    spread: float


class Refiner:
    """Takes second looks.

    Args:
        yunet: The detector.
        image: uint8, shape (height, width, 3), BGR.
    """

    def __init__(self, yunet: YuNet, image: NDArray[np.uint8]) -> None:
        self._yunet = yunet
        self._image = image

    def confirm(self, first: Candidate) -> Refined | None:
        """Take one more look at a face that seems upright after its quarter turns.

        Returns:
            The first look's landmarks; None if the looks disagree, if the face is tilted, or if the
            first look saw it too small, too large or in part: then `settle` must find them.
        """
        if not (first.whole and _SEEN_EYES[0] <= first.seen_eyes <= _SEEN_EYES[1]):
            return None
        second = self._look(first.points, _QUICK)
        if second is None or (apart := _apart(first.points, second.points)) > _AGREEMENT:
            return None
        if self._is_tilted(second.points, first.quarter):
            return None
        points = _BEST_SHARE * first.points + (1 - _BEST_SHARE) * first.mean_points
        score = (first.score + second.score) / 2
        spread = apart / 2
        return Refined(points.astype(np.float32), score, spread)

    def _is_tilted(self, points: Points, quarter: int) -> bool:
        if abs(_tilt(points, quarter)) <= _SURELY_UPRIGHT:
            return False
        large = self._look(points, _LARGE)
        return large is None or abs(_tilt(large.points, quarter)) > _UPRIGHT

    def check(self, first: Candidate) -> Refined | None:
        """Take one more look at a face beside a more prominent one.

        Returns:
            The second look; None if it shows no face, or another one.
        """
        second = self._look(first.points, _SMALL)
        if second is None or (spread := _apart(first.points, second.points)) > 2 * _AGREEMENT:
            return None
        return Refined(second.points, second.score, spread / 2)

    def settle(self, start: Points) -> Refined | None:
        """Look at chips that are cut upright by the last look, until the face no longer turns.

        Returns:
            The mean of the last looks; None if a chip shows no face.
        """
        points = self._turn_upright(start)
        if points is None:
            return None
        looks = [self._look(points, size, mirrored) for size, mirrored in _FINAL]
        seen = [look for look in looks if look is not None]
        if len(seen) < len(looks):
            return None
        mean = np.mean([look.points for look in seen], axis=0).astype(np.float32)
        return Refined(
            mean,
            float(np.mean([look.score for look in seen])),
            max(_apart(mean, look.points) for look in seen),
        )

    def place(self, settled: Refined) -> Refined | None:
        """Find the landmarks that the first look at an upright picture would show on average.

        A face that leans a little is not turned: upright pictures show such faces, too.

        Returns:
            The mean of several looks; None if they disagree with those before.
        """
        angle = roll(settled.points)
        start = settled.points
        quarter = round(angle / 90) * 90.0
        if abs(_difference(angle, quarter)) <= _UPRIGHT:
            start = with_roll(start, quarter)
        looks = [look for size in _PLACING if (look := self._look(start, size)) is not None]
        if not looks:
            return None
        points = np.mean(
            [
                _PLACING_BEST_SHARE * look.best_points + (1 - _PLACING_BEST_SHARE) * look.points
                for look in looks
            ],
            axis=0,
        ).astype(np.float32)
        apart = _apart(settled.points, points)
        if apart > 2 * _AGREEMENT:
            return None
        return Refined(points, settled.score, max(settled.spread, apart / 2))

    def agree(self, first: Candidate, settled: Refined) -> bool:
        """Tell whether the first look saw the face as it settled, upright after quarter turns."""
        upright = abs(_tilt(settled.points, first.quarter)) <= _UPRIGHT
        return upright and _apart(settled.points, first.points) <= _AGREEMENT

    def uprightness(self, face: Refined) -> float:
        """Return the sum of the scores of a face in a large and in a small upright chip.

        Either alone is sometimes higher for a face upside down, for drawn faces above all.
        """
        look = self._look(face.points, _SMALL)
        return face.score + (0.0 if look is None else look.score)

    def _turn_upright(self, points: Points) -> Points | None:
        for _ in range(_MAX_STEPS):
            look = self._look(points, _LARGE)
            if look is None:
                return None
            turned = _difference(roll(look.points), roll(points))
            points = look.points
            if abs(turned) < _STEP:
                break
        return points

    def _look(self, points: Points, size: ChipSize, mirrored: bool = False) -> ChipLook | None:
        return look_at_chip(self._yunet, self._image, points, size, mirrored=mirrored)


def _apart(one: Points, other: Points) -> float:
    return float(np.linalg.norm(one - other, axis=1).mean()) / eye_distance(one)


def _tilt(points: Points, quarter: int) -> float:
    """Return the angle to upright that is left after quarter turns."""
    return _difference(roll(points), -90.0 * quarter)


def _difference(one: float, other: float) -> float:
    """Return the difference of two angles, -180..180 degrees."""
    return (one - other + 180) % 360 - 180
