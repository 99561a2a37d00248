"""Perceptual hashes: close for near-identical pictures, and for no others."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cli.rendering.renderer import render_person
from shared.model.image.perceptual_hash import HASH_BYTES, near_duplicates, perceptual_hash
from tests.support.photographs import GROUP, photograph


def hashes(*pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found = np.stack([np.frombuffer(perceptual_hash(each), np.uint8) for each in pictures])
    assert found.shape == (len(pictures), HASH_BYTES)
    return found


def copies(picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The same picture encoded again, smaller, brighter, darker, noisy and moved a little."""
    height, width = picture.shape[:2]
    noise = np.random.default_rng(0).normal(0, 6, picture.shape)
    moved = cv2.warpAffine(
        picture,
        np.float32([[1, 0, 0.5], [0, 1, 0.5]]),
        (width, height),
        borderMode=cv2.BORDER_REFLECT,
    )
    jpegs = [
        cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
        for quality in (90, 50, 25)
    ]
    return [
        *jpegs,
        cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA),
        cv2.resize(picture, (2 * width, 2 * height)),
        np.clip(picture * 1.1 + 5, 0, 255).astype(np.uint8),
        (picture * 0.8).astype(np.uint8),
        np.clip(picture + noise, 0, 255).astype(np.uint8),
        moved,
    ]


@pytest.mark.parametrize("number", range(6))
def test_copies_are_near_identical(number: int) -> None:
    for picture in (render_person(number, number), photograph(*GROUP[: 1 + number % 3])):
        assert near_duplicates(hashes(picture), hashes(*copies(picture))).all()


def test_pictures_of_people_are_not() -> None:
    pictures = hashes(*(render_person(person, image) for person in range(40) for image in range(4)))
    near = near_duplicates(pictures, pictures)
    assert near.sum() == len(pictures)


@pytest.mark.material
def test_real_faces_are_not(material: Path) -> None:
    files = sorted((material / "faces/lfw").glob("*/*.jpg"))
    pictures = hashes(*map(cv2.imread, map(str, files)))
    assert near_duplicates(pictures, pictures).sum() == len(pictures) > 2000


def test_a_picture_of_one_colour_has_a_hash() -> None:
    assert near_duplicates(*(hashes(np.full((9, 7, 3), 90, np.uint8)),) * 2).all()


def test_no_hashes_are_near_none() -> None:
    none = np.empty((0, HASH_BYTES), np.uint8)
    assert near_duplicates(none, none).shape == (0, 0)
