"""Aligned crops that show no face, by kind, and degraded faces; all made up."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.image.align import CROP_SIZE

Crops = NDArray[np.uint8]
_SHAPE = (CROP_SIZE, CROP_SIZE, 3)
_WORDS = ("In", "the", "beginning", "was", "a", "page", "of", "text", "0123", "and", "no", "face")


def no_face_kinds(faces: Crops, seed: int = 0) -> dict[str, Crops]:
    """Make crops without a face, or with one that is not upright in its place.

    Args:
        faces: uint8 [N, 112, 112, 3], aligned; kinds that are made of faces have N crops.
        seed: Of the random kinds.
    """
    rng = np.random.default_rng(seed)
    made = {
        "one colour": [np.full(_SHAPE, value, np.uint8) for value in (0, 60, 128, 255)],
        "one pixel": [_enlarged(rng, 1) for _ in range(4)],
        "gradient": list(_gradients(rng)),
        "Gaussian noise": [_noise(rng, spread) for spread in (3, 20, 60, 90)],
        "uniform noise": [rng.integers(0, 256, _SHAPE).astype(np.uint8) for _ in range(4)],
        "salt and pepper": [_salt(rng, share) for share in (0.02, 0.1, 0.3)],
        "smooth patches": [_enlarged(rng, side) for side in (2, 3, 5, 7, 12, 20) for _ in range(3)],
        "checkerboard": [_stripes(width, width) for width in (1, 2, 4, 8, 14, 28, 56)],
        "stripes": [_stripes(width, CROP_SIZE) for width in (2, 5, 14, 30)],
        "text": [_text(rng) for _ in range(8)],
        "shapes": [_shapes(rng) for _ in range(8)],
    }
    kinds = {name: np.stack(crops) for name, crops in made.items()}
    return kinds | {
        "upside down": np.ascontiguousarray(faces[:, ::-1, ::-1]),
        "mirrored upside down": np.ascontiguousarray(faces[:, ::-1]),
        "turned by 90 degrees": np.ascontiguousarray(np.rot90(faces, axes=(1, 2))),
        "only the mouth": _zoomed(faces, 78, 108, 36, 76),
        "only the nose": _zoomed(faces, 50, 85, 38, 74),
        "only one eye": _zoomed(faces, 38, 66, 24, 52),
        "forehead and hair": _zoomed(faces, 0, 36, 30, 80),
        "a corner": _zoomed(faces, 0, 60, 0, 40),
        "the face painted over": np.stack([_painted_over(face) for face in faces]),
        "shuffled tiles": np.stack([_shuffled(face, rng) for face in faces]),
    }


def degraded_kinds(faces: Crops, seed: int = 0) -> dict[str, Crops]:
    """Degrade faces, uint8 [N, 112, 112, 3], in ways in which they are still faces."""
    rng = np.random.default_rng(seed)
    grey = [cv2.cvtColor(cv2.cvtColor(f, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) for f in faces]
    kinds = {
        "grey": grey,
        "blurred": [cv2.GaussianBlur(face, (0, 0), 3) for face in faces],
        "dark": [_with_noise(face * 0.2, 2, rng) for face in faces],
        "washed out": [_with_noise(face * 0.25 + 170, 1, rng) for face in faces],
        "noisy": [_with_noise(face, 20, rng) for face in faces],
        "16 pixels wide": [cv2.resize(_small(f, 16), _SHAPE[:2]) for f in faces],
        "JPEG of quality 10": [_as_jpeg(face, 10) for face in faces],
        "mask": [_masked(face) for face in faces],
        "sunglasses": [_with_sunglasses(face) for face in faces],
    }
    return {name: np.stack(crops).astype(np.uint8) for name, crops in kinds.items()}


def _enlarged(rng: np.random.Generator, side: int) -> Crops:
    coarse = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, _SHAPE[:2], interpolation=cv2.INTER_CUBIC), np.uint8)


def _gradients(rng: np.random.Generator) -> Iterator[Crops]:
    y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE] / (CROP_SIZE - 1)
    for share in (x, y, (x + y) / 2, np.hypot(x - 0.5, y - 0.5)):
        first, last = rng.integers(0, 256, (2, 3))
        yield (first + (last - first) * share[..., None]).astype(np.uint8)


def _noise(rng: np.random.Generator, spread: float) -> Crops:
    return _with_noise(np.full(_SHAPE, 128.0), spread, rng)


def _with_noise(face: NDArray[np.floating], spread: float, rng: np.random.Generator) -> Crops:
    noisy = face + rng.normal(0, spread, face.shape)
    return np.asarray(noisy.clip(0, 255), np.uint8)


def _salt(rng: np.random.Generator, share: float) -> Crops:
    grain = rng.random(_SHAPE[:2])
    crop = np.full(_SHAPE, 128, np.uint8)
    crop[grain < share / 2] = 0
    crop[grain > 1 - share / 2] = 255
    return crop


def _stripes(width: int, height: int) -> Crops:
    y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE]
    return np.repeat(((y // height + x // width) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


def _text(rng: np.random.Generator) -> Crops:
    page = np.full((224, 224, 3), 245, np.uint8)
    for line in range(12):
        words = " ".join(rng.choice(_WORDS, 6))
        cv2.putText(page, words, (4, 20 + 18 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20))
    return np.asarray(cv2.resize(page, _SHAPE[:2], interpolation=cv2.INTER_AREA), np.uint8)


def _shapes(rng: np.random.Generator) -> Crops:
    crop = np.full(_SHAPE, rng.integers(0, 256, 3), np.uint8)
    for _ in range(int(rng.integers(2, 9))):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        start, end = rng.integers(0, CROP_SIZE, (2, 2)).tolist()
        if rng.random() < 0.5:
            cv2.rectangle(crop, start, end, colour, -1)
        else:
            cv2.line(crop, start, end, colour, 4)
    return crop


def _zoomed(faces: Crops, top: int, bottom: int, left: int, right: int) -> Crops:
    parts = faces[:, top:bottom, left:right]
    return np.stack([cv2.resize(part, _SHAPE[:2]) for part in parts]).astype(np.uint8)


def _painted_over(face: Crops) -> Crops:
    skin = face[60:70, 50:60].mean((0, 1)).tolist()
    return np.asarray(cv2.rectangle(face.copy(), (18, 30), (94, 108), skin, -1), np.uint8)


def _shuffled(face: Crops, rng: np.random.Generator) -> Crops:
    tiles = face.reshape(4, 28, 4, 28, 3).transpose(0, 2, 1, 3, 4).reshape(16, 28, 28, 3)
    mixed = np.roll(tiles, int(rng.integers(5, 12)), axis=0).reshape(4, 4, 28, 28, 3)
    return mixed.transpose(0, 2, 1, 3, 4).reshape(_SHAPE)


def _small(face: Crops, side: int) -> Crops:
    return np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _as_jpeg(face: Crops, quality: int) -> Crops:
    file = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)


def _masked(face: Crops) -> Crops:
    outline = [(22, 66), (56, 60), (90, 66), (88, 95), (75, 111), (37, 111), (24, 95)]
    return np.asarray(cv2.fillPoly(face.copy(), [np.array(outline)], (210, 180, 150)), np.uint8)


def _with_sunglasses(face: Crops) -> Crops:
    worn = face.copy()
    for eye in ((38, 52), (74, 52)):
        cv2.ellipse(worn, eye, (15, 11), 0, 0, 360, (15, 15, 15), -1)
    return np.asarray(cv2.line(worn, (45, 50), (65, 50), (15, 15, 15), 3), np.uint8)
