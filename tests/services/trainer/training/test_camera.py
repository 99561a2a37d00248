"""The camera of the feedback is found from its pictures, and none where they are good."""

from collections.abc import Callable
from statistics import median

import numpy as np
import pytest

from cli.rendering.renderer import render_person
from services.trainer.training.camera import Camera, Spoiling

FACES = np.stack([render_person(person, 0) for person in range(12)])
# Of other people than the faces.
GOOD = np.stack([render_person(person, 0) for person in range(100, 140)])


def taken_by(way: Spoiling) -> np.ndarray:
    generator = np.random.default_rng(5)
    return np.stack([way.apply(crop, generator) for crop in GOOD])


def middle(camera: Camera, part: Callable[[Spoiling], float]) -> float:
    return median(part(way) for way in camera.ways)


@pytest.mark.parametrize(
    ("way", "part", "low", "high"),
    [
        pytest.param(Spoiling(18, 1, 1, 0, 95), lambda way: way.side, 14, 24, id="coarse"),
        pytest.param(Spoiling(112, 1, 0.45, 0, 95), lambda way: way.gain, 0.3, 0.65, id="dark"),
        pytest.param(Spoiling(112, 1, 1, 12, 95), lambda way: way.noise, 8, 24, id="noisy"),
        pytest.param(Spoiling(112, 1, 1, 0, 22), lambda way: way.quality, 20, 40, id="jpeg"),
    ],
)
def test_what_is_wrong_with_the_pictures_is_found(
    way: Spoiling, part: Callable[[Spoiling], float], low: float, high: float
) -> None:
    camera = Camera.learn(taken_by(way), FACES, seed=0)
    assert low <= middle(camera, part) <= high


def test_a_good_camera_changes_little() -> None:
    camera = Camera.learn(GOOD, FACES, seed=0)
    assert middle(camera, lambda way: way.side) > 56
    poor = Camera.learn(taken_by(Spoiling(18, 1.2, 0.5, 6, 40)), FACES, seed=0)
    generator = np.random.default_rng(0)
    good_change, poor_change = (
        np.abs(one.spoil(GOOD, generator).astype(float) - GOOD).mean() for one in (camera, poor)
    )
    assert good_change < 0.7 * poor_change


def test_the_same_seed_finds_the_same_camera() -> None:
    pictures = GOOD[:20]
    camera = Camera.learn(pictures, FACES, seed=3)
    assert camera == Camera.learn(pictures, FACES, seed=3)
    one, same, other = (camera.spoil(FACES, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.shape == FACES.shape
