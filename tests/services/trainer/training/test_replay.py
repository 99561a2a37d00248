"""Replayed faces and their target features."""

import numpy as np
import torch

from cli.rendering.renderer import render_person
from services.trainer.training.augmentation import augmentation
from services.trainer.training.replay import Replay

FACES = np.stack([render_person(person, 0) for person in range(3)])


def extract(crops: np.ndarray) -> np.ndarray:
    """Features whose magnitude falls with the contrast of the picture."""
    flat = crops.reshape(len(crops), -1).astype(np.float32)
    return (flat - flat.mean(axis=1, keepdims=True))[:, ::500] / 10


def sample(replay: Replay, seed: int) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    return replay.sample(np.random.default_rng(seed))


def test_the_same_seeds_sample_the_same_and_others_do_not() -> None:
    replay = Replay(FACES, extract, augmentation(0.9))
    one, same, other = sample(replay, 0), sample(replay, 0), sample(replay, 1)
    assert np.array_equal(one[0], same[0])
    assert np.array_equal(one[1], same[1])
    assert not np.array_equal(one[0], other[0])


def test_the_target_of_a_good_picture_is_what_the_parent_gives() -> None:
    crops, targets = sample(Replay(FACES, extract, None), 0)
    assert np.array_equal(targets, extract(crops))
    # Augmented each time: none of the faces itself.
    assert not any((crops == face).all(axis=(1, 2, 3)).any() for face in FACES)


def test_a_degraded_one_gets_the_good_ones_embedding_and_its_own_magnitude() -> None:
    crops, targets = sample(Replay(FACES, extract, augmentation(1.0)), 0)
    degraded = len(crops) - 16
    assert degraded > 0
    good, bad = targets[:degraded], targets[16:]
    cosine = (good * bad).sum(axis=1) / np.linalg.norm(good, axis=1) / np.linalg.norm(bad, axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)
    own = np.linalg.norm(extract(crops[16:]), axis=1)
    np.testing.assert_allclose(np.linalg.norm(bad, axis=1), own, rtol=1e-5)
    assert not np.allclose(own, np.linalg.norm(good, axis=1), rtol=0.05)
