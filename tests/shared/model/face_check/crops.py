"""Training crops of the face check: faces in their place, and everything else, degraded at random.

A face is in its place if it is upright and as large as in the template. Faces that are turned by
more than 65 degrees, enlarged, reduced or moved far are examples of crops without a face; those in
between are not used.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.image.align import CROP_SIZE

Picture = NDArray[np.uint8]
_SIZE = (CROP_SIZE, CROP_SIZE)
_CENTRE = (55.5, 62.0)
_BORDERS = (cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT, cv2.BORDER_REPLICATE)
_SHARE_OF_FACES = 0.45


@dataclass(frozen=True, slots=True)
class Sources:
    """Pictures to make crops of.

    Attributes:
        faces: Aligned crops of real people, uint8 (112, 112, 3).
        rendered: Aligned crops of rendered people.
        photographs: Of 250x250 pixels, with a face in the middle.
        pictures: Of any size, without faces.
    """

    faces: Sequence[Picture]
    rendered: Sequence[Picture]
    photographs: Sequence[Picture]
    pictures: Sequence[Picture]


class CropMaker:
    """Makes random crops of the sources.

    Args:
        sources: Of all crops.
        seed: The same seed gives the same crops.
    """

    def __init__(self, sources: Sources, seed: int) -> None:
        self._sources = sources
        self._rng = np.random.default_rng(seed)
        # Large pictures have more to show.
        sides = np.array([min(one.shape[:2]) for one in sources.pictures], np.float64)
        self._picture_chances = sides / sides.sum()

    def make(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Make crops, uint8 [count, 112, 112, 3], and whether each shows a face in its place."""
        is_face = self._rng.random(count) < _SHARE_OF_FACES
        crops = [self._degraded(self._face() if one else self._no_face()) for one in is_face]
        return np.stack(crops), is_face

    def _uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return float(self._rng.uniform(low, high))

    def _log_uniform(self, low: float, high: float) -> float:
        return float(np.exp(self._rng.uniform(np.log(low), np.log(high))))

    def _colour(self) -> tuple[int, ...]:
        return tuple(self._rng.integers(0, 256, 3).tolist())

    def _any_of(self, pictures: Sequence[Picture]) -> Picture:
        return pictures[int(self._rng.integers(len(pictures)))]

    def _source_face(self) -> Picture:
        real = self._uniform() < 0.7
        return self._any_of(self._sources.faces if real else self._sources.rendered)

    def _moved(self, face: Picture, degrees: float, scale: float, x: float, y: float) -> Picture:
        matrix = cv2.getRotationMatrix2D(_CENTRE, degrees, scale)
        matrix[:, 2] += (x, y)
        border = _BORDERS[int(self._rng.integers(3))]
        return np.asarray(cv2.warpAffine(face, matrix, _SIZE, borderMode=border), np.uint8)

    def _face(self) -> Picture:
        face = self._source_face()
        if self._uniform() < 0.5:
            face = np.ascontiguousarray(face[:, ::-1])
        if self._uniform() < 0.6:
            degrees, x, y = self._rng.normal(0, (7, 4, 4)).tolist()
            face = self._moved(face, degrees, float(np.exp(self._rng.normal(0, 0.1))), x, y)
        return self._covered(face)

    def _covered(self, face: Picture) -> Picture:
        """Put a mask, sunglasses or a rectangle on some faces."""
        chance, covered = self._uniform(), face.copy()
        if chance < 0.06:
            outline = [(22, 66), (56, 60), (90, 66), (88, 95), (75, 111), (37, 111), (24, 95)]
            shifted = np.array(outline) + self._rng.normal(0, 2, (7, 2))
            cv2.fillPoly(covered, [shifted.astype(np.int32)], self._colour())
        elif chance < 0.12:
            dark = (int(self._uniform(0, 40)),) * 3
            colour = self._colour() if self._uniform() < 0.3 else dark
            axes = (int(self._uniform(11, 18)), int(self._uniform(8, 13)))
            for x in (38, 74):
                cv2.ellipse(covered, (x, 52), axes, 0, 0, 360, colour, -1)
            cv2.line(covered, (45, 50), (65, 50), colour, 3)
        elif chance < 0.16:
            x, y = self._rng.integers(0, 90, 2).tolist()
            width, height = self._rng.integers(10, 40, 2).tolist()
            cv2.rectangle(covered, (x, y), (x + width, y + height), self._colour(), -1)
        return covered

    def _no_face(self) -> Picture:
        makers = (
            (0.28, self._misplaced),
            (0.18, self._part),
            (0.06, self._destroyed),
            (0.12, self._beside_a_face),
            (0.16, self._of_a_picture),
            (0.20, self._drawn),
        )
        chances = [chance for chance, _ in makers]
        return makers[int(self._rng.choice(len(makers), p=chances))][1]()

    def _misplaced(self) -> Picture:
        """Turn, resize or move a face until it is not in its place."""
        while True:
            degrees, scale = self._uniform(-180, 180), self._log_uniform(0.2, 3.0)
            x, y = self._rng.uniform(-90, 90, 2).tolist()
            if (only := self._uniform()) < 0.2:
                degrees, scale, x, y = 180 + 20 * self._rng.standard_normal(), 1.0, 0.0, 0.0
            elif only < 0.4:
                degrees, scale = self._uniform(70, 290), 1.0
            elif only < 0.6:
                scale = self._log_uniform(1.9, 4.0)
            turned = abs((degrees + 180) % 360 - 180)
            if turned > 65 or not 0.42 < scale < 1.9 or np.hypot(x, y) > 38:
                break
        face = self._moved(self._source_face(), degrees, scale, x, y)
        return np.ascontiguousarray(face[::-1]) if self._uniform() < 0.1 else face

    def _part(self) -> Picture:
        """Enlarge a part of a face without both the eyes and the mouth."""
        while True:
            width, height = int(self._uniform(22, 80)), int(self._uniform(22, 60))
            x, y = int(self._uniform(0, 112 - width)), int(self._uniform(0, 112 - height))
            if y > 50 or y + height < 76 or x > 46 or x + width < 66:
                break
        part = self._source_face()[y : y + height, x : x + width]
        return np.asarray(cv2.resize(part, _SIZE, interpolation=cv2.INTER_CUBIC), np.uint8)

    def _destroyed(self) -> Picture:
        """Shuffle the tiles of a face, or paint it over."""
        face = self._source_face().copy()
        if self._uniform() < 0.3:
            tile = int(self._rng.choice([4, 7, 8]))
            across = CROP_SIZE // tile
            tiles = face.reshape(tile, across, tile, across, 3).transpose(0, 2, 1, 3, 4)
            mixed = self._rng.permutation(tiles.reshape(-1, across, across, 3))
            mixed = mixed.reshape(tile, tile, across, across, 3).transpose(0, 2, 1, 3, 4)
            return np.ascontiguousarray(mixed.reshape(face.shape))
        skin = tuple(face[60:70, 50:60].mean((0, 1)).tolist())
        colour = skin if self._uniform() < 0.5 else self._colour()
        if self._uniform() < 0.5:
            corner = int(self._uniform(5, 22)), int(self._uniform(20, 34))
            cv2.rectangle(face, corner, (int(self._uniform(90, 106)), 111), colour, -1)
        else:
            axes = int(self._uniform(36, 50)), int(self._uniform(46, 60))
            cv2.ellipse(face, (56, 66), axes, 0, 0, 360, colour, -1)
        blur = self._uniform() < 0.5
        return np.asarray(cv2.GaussianBlur(face, (0, 0), 3) if blur else face, np.uint8)

    def _beside_a_face(self) -> Picture:
        """Cut a photograph beside its face, or a small part of it."""
        photograph = self._any_of(self._sources.photographs)
        side = int(self._uniform(24, 60))
        height, width = photograph.shape[:2]
        while True:
            x, y = self._rng.integers(0, (width - side + 1, height - side + 1)).tolist()
            away = max(abs(x + side / 2 - width / 2), abs(y + side / 2 - height / 2))
            if side < 42 or away > 45 + side / 3:
                break
        cut = photograph[y : y + side, x : x + side]
        return np.asarray(cv2.resize(cut, _SIZE, interpolation=cv2.INTER_CUBIC), np.uint8)

    def _of_a_picture(self) -> Picture:
        pictures = self._sources.pictures
        picture = pictures[int(self._rng.choice(len(pictures), p=self._picture_chances))]
        height, width = picture.shape[:2]
        side = int(self._log_uniform(min(24, height, width), min(height, width)))
        x, y = self._rng.integers(0, (width - side + 1, height - side + 1)).tolist()
        method = cv2.INTER_AREA if side > CROP_SIZE else cv2.INTER_CUBIC
        crop = cv2.resize(picture[y : y + side, x : x + side], _SIZE, interpolation=method)
        return np.ascontiguousarray(np.rot90(crop, int(self._rng.integers(4))), np.uint8)

    def _drawn(self) -> Picture:
        makers = (self._flat, self._gradient, self._noise, self._patches, self._grid)
        makers += (self._text, self._shapes)
        return makers[int(self._rng.integers(len(makers)))]()

    def _flat(self) -> Picture:
        return np.full((*_SIZE, 3), self._colour(), np.uint8)

    def _gradient(self) -> Picture:
        y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE] / CROP_SIZE
        angle = self._uniform(0, 6.3)
        share = np.cos(angle) * x + np.sin(angle) * y
        if self._uniform() < 0.4:
            share = np.hypot(x - self._uniform(), (y - self._uniform()) * self._uniform(0.6, 1.6))
        share = ((share - share.min()) / np.ptp(share)) ** self._uniform(0.5, 2)
        first, last = self._rng.integers(0, 256, (2, 3))
        return (first + (last - first) * share[..., None]).astype(np.uint8)

    def _noise(self) -> Picture:
        channels = 3 if self._uniform() < 0.5 else 1
        noise = self._rng.normal(self._uniform(20, 230), self._uniform(2, 90), (*_SIZE, channels))
        return (noise.clip(0, 255) * np.ones(3)).astype(np.uint8)

    def _patches(self) -> Picture:
        height, width = (int(self._log_uniform(1.0, 60.0)) for _ in range(2))
        coarse = self._rng.integers(0, 256, (height, width, 3 if self._uniform() < 0.6 else 1))
        pixels = (coarse * np.ones(3)).astype(np.uint8)
        method = int(self._rng.integers(0, 3))
        return np.asarray(cv2.resize(pixels, _SIZE, interpolation=method), np.uint8)

    def _grid(self) -> Picture:
        y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE]
        height, width = self._rng.choice([self._uniform(1, 60), 1000.0], 2).tolist()
        odd = (y // height + x // width) % 2 > 0
        return np.where(odd[..., None], self._colour(), self._colour()).astype(np.uint8)

    def _text(self) -> Picture:
        side = int(self._uniform(60, 500))
        page = np.full((side, side, 3), self._colour(), np.uint8)
        colour, scale = self._colour(), self._uniform(0.3, 2.5)
        letters = list(string.ascii_letters + "   ")
        for y in range(0, side, max(8, int(22 * scale))):
            line = "".join(self._rng.choice(letters, 24))
            font = int(self._rng.integers(0, 8))
            cv2.putText(page, line, (int(self._uniform(-9, 9)), y), font, scale, colour)
        return np.asarray(cv2.resize(page, _SIZE, interpolation=cv2.INTER_AREA), np.uint8)

    def _shapes(self) -> Picture:
        crop = self._flat()
        for _ in range(int(self._uniform(1, 25))):
            start, end, axes = self._rng.integers(0, CROP_SIZE, (3, 2)).tolist()
            match int(self._rng.integers(3)):
                case 0:
                    cv2.line(crop, start, end, self._colour(), int(self._uniform(1, 9)))
                case 1:
                    turn = self._uniform(0, 180)
                    cv2.ellipse(crop, start, axes, turn, 0, 360, self._colour(), -1)
                case _:
                    cv2.rectangle(crop, start, end, self._colour(), -1)
        return crop

    def _degraded(self, crop: Picture) -> Picture:
        for _ in range(int(self._rng.integers(0, 4))):
            crop = self._degraded_once(crop)
        return crop

    def _degraded_once(self, crop: Picture) -> Picture:
        values = crop.astype(np.float32)
        match int(self._rng.integers(8)):
            case 0:
                return np.asarray(cv2.GaussianBlur(crop, (0, 0), self._uniform(0.5, 4.5)), np.uint8)
            case 1:
                values = values * self._uniform(0.07, 0.6)
                values += self._rng.normal(0, self._uniform(0, 4), values.shape)
            case 2:
                gain = self._uniform(0.15, 0.8)
                values = values * gain + self._uniform(0, 255 * (1 - gain))
            case 3:
                side = int(self._uniform(14, 60))
                small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
                return np.asarray(cv2.resize(small, _SIZE, interpolation=cv2.INTER_CUBIC), np.uint8)
            case 4:
                quality = [cv2.IMWRITE_JPEG_QUALITY, int(self._uniform(8, 50))]
                file = cv2.imencode(".jpg", crop, quality)[1]
                return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)
            case 5:
                values += self._rng.normal(0, self._uniform(2, 45), values.shape)
            case 6:
                grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
                return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
            case _:
                gamma, gains = self._uniform(0.5, 2), self._rng.uniform(0.6, 1.4, 3)
                values = 255 * (values / 255) ** gamma * gains
        return values.clip(0, 255).astype(np.uint8)
