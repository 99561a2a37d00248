"""Replayed faces: what they look like, and what the network should say of them."""

import numpy as np
import torch

from cli.demo.rendering.renderer import render_person
from services.trainer.training.augmentation import augmentation
from services.trainer.training.replay import Replay

FACES = np.stack([render_person(person, 0) for person in range(3)])


def see(crops: np.ndarray) -> np.ndarray:
    """Features whose magnitude falls with what is lost of the picture's contrast."""
    flat = crops.reshape(len(crops), -1).astype(np.float32)
    return (flat - flat.mean(axis=1, keepdims=True))[:, ::500] / 10


def deal(replay: Replay, seed: int) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    return replay.deal(np.random.default_rng(seed))


def test_the_same_seeds_deal_the_same_and_others_do_not() -> None:
    replay = Replay(FACES, see, augmentation(0.9))
    one, same, other = deal(replay, 0), deal(replay, 0), deal(replay, 1)
    assert np.array_equal(one[0], same[0])
    assert np.array_equal(one[1], same[1])
    assert not np.array_equal(one[0], other[0])


def test_a_good_picture_is_to_be_seen_as_the_parent_sees_it() -> None:
    crops, wanted = deal(Replay(FACES, see, None), 0)
    assert np.array_equal(wanted, see(crops))
    # Changed lightly each time, and not one of the faces themselves.
    assert not any((crops == face).all(axis=(1, 2, 3)).any() for face in FACES)


def test_a_spoiled_one_gets_the_good_ones_embedding_and_its_own_magnitude() -> None:
    crops, wanted = deal(Replay(FACES, see, augmentation(1.0)), 0)
    spoiled = len(crops) - 16
    assert spoiled > 0
    good, bad = wanted[:spoiled], wanted[16:]
    cosine = (good * bad).sum(axis=1) / np.linalg.norm(good, axis=1) / np.linalg.norm(bad, axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)
    own = np.linalg.norm(see(crops[16:]), axis=1)
    np.testing.assert_allclose(np.linalg.norm(bad, axis=1), own, rtol=1e-5)
    assert not np.allclose(own, np.linalg.norm(good, axis=1), rtol=0.05)
