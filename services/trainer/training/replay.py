"""Replay of reference faces: the network keeps the parent's features, and learns a poor camera."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.trainer.data.arrays import CropArray, FeatureArray
from services.trainer.training.augmentation import augment, mild_augmentation
from services.trainer.training.camera import Camera

# Faces per step; each is added again as the camera of the feedback would have taken it.
_FACES = 16


@dataclass(frozen=True)
class ReplayedFaces:
    """Good faces, and the camera of the feedback.

    Attributes:
        crops: uint8 [M, 112, 112, 3], BGR, faces that the parent recognises well.
        camera: Spoils them as the pictures of the feedback are.
    """

    crops: CropArray
    camera: Camera


class Replay:
    """Samples faces and their target features for each training step.

    The target of a spoiled face has the direction of the good face's features under the parent and
    the magnitude of its own: the identity does not depend on the image quality, and the magnitude
    measures it. So the network learns what the camera does to a face without any label (cross-
    quality distillation).

    Args:
        faces: Faces and camera.
        extract: Computes the parent's features of crops, not normalised.
    """

    def __init__(self, faces: ReplayedFaces, extract: Callable[[CropArray], FeatureArray]) -> None:
        self._faces = faces
        self._extract = extract
        self._augmentation = mild_augmentation()

    def sample(self, generator: np.random.Generator) -> tuple[CropArray, FeatureArray]:
        """Sample faces, each augmented and spoiled anew.

        Args:
            generator: Random source of the choice and of the camera; the augmentation draws from
                torch's global generator.

        Returns:
            Good crops and then the same ones spoiled, uint8 [2 R, 112, 112, 3], BGR, and their
            target features, float32 [2 R, D].
        """
        chosen = generator.integers(len(self._faces.crops), size=_FACES)
        good = augment(self._faces.crops[chosen], self._augmentation)
        spoiled = self._faces.camera.spoil(good, generator)
        features = self._extract(np.concatenate([good, spoiled]))
        magnitudes = np.linalg.norm(features, axis=1, keepdims=True)
        directions = features[:_FACES] / magnitudes[:_FACES]
        targets = directions * magnitudes[_FACES:]
        return np.concatenate([good, spoiled]), np.concatenate([features[:_FACES], targets])
