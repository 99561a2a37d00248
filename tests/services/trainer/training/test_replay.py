"""Replayed faces and their target features."""

import numpy as np
import torch

from cli.rendering.renderer import render_person
from services.trainer.training.camera import Camera, Spoiling
from services.trainer.training.replay import Replay, ReplayedFaces

FACES = ReplayedFaces(
    np.stack([render_person(person, 0) for person in range(3)]),
    Camera((Spoiling(20, 1.0, 0.5, 3.0, 50), Spoiling(24, 1.2, 0.6, 2.0, 40))),
)


def extract(crops: np.ndarray) -> np.ndarray:
    """Features whose magnitude falls with the contrast of the picture."""
    flat = crops.reshape(len(crops), -1).astype(np.float32)
    return (flat - flat.mean(axis=1, keepdims=True))[:, ::500] / 10


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    return Replay(FACES, extract).sample(np.random.default_rng(seed))


def test_the_same_seeds_sample_the_same_and_others_do_not() -> None:
    one, same, other = sample(0), sample(0), sample(1)
    assert np.array_equal(one[0], same[0])
    assert np.array_equal(one[1], same[1])
    assert not np.array_equal(one[0], other[0])


def test_the_target_of_a_good_picture_is_what_the_parent_gives() -> None:
    crops, targets = sample(0)
    good = len(crops) // 2
    assert np.array_equal(targets[:good], extract(crops[:good]))
    # Augmented each time: none of the faces itself.
    assert not any((crops == face).all(axis=(1, 2, 3)).any() for face in FACES.crops)


def test_a_spoiled_one_gets_the_good_ones_embedding_and_its_own_magnitude() -> None:
    crops, targets = sample(0)
    good, bad = np.split(targets, 2)
    cosine = (good * bad).sum(axis=1) / np.linalg.norm(good, axis=1) / np.linalg.norm(bad, axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)
    own = np.linalg.norm(extract(crops[len(good) :]), axis=1)
    np.testing.assert_allclose(np.linalg.norm(bad, axis=1), own, rtol=1e-5)
    assert (own < 0.8 * np.linalg.norm(good, axis=1)).all()
