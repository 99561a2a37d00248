"""Replay of reference faces, on which the network must keep the parent's features."""

from collections.abc import Callable

import numpy as np
from torchvision.transforms import v2

from services.trainer.data.arrays import CropArray, FeatureArray
from services.trainer.training.augmentation import augment, mild_augmentation

# Faces per step, and how many of them are added again in degraded form.
_FACES, _DEGRADED = 16, 8


class Replay:
    """Samples faces and their target features for each training step.

    The target of a degraded crop has the direction of the good crop's features and the magnitude
    of its own: the identity does not depend on the image quality, and the magnitude measures it.

    Args:
        faces: uint8 [M, 112, 112, 3], BGR.
        extract: Computes the parent's features of crops, not normalised.
        degrade: Transform that lowers the image quality; None for no degraded crops.
    """

    def __init__(
        self,
        faces: CropArray,
        extract: Callable[[CropArray], FeatureArray],
        degrade: v2.Transform | None,
    ) -> None:
        self._faces = faces
        self._extract = extract
        self._degrade = degrade
        self._augmentation = mild_augmentation()

    def sample(self, generator: np.random.Generator) -> tuple[CropArray, FeatureArray]:
        """Sample faces, each augmented anew.

        Args:
            generator: Random source of the choice; the transforms draw from torch's global
                generator.

        Returns:
            R crops, uint8 [R, 112, 112, 3], BGR, and their target features, float32 [R, D].
        """
        chosen = generator.integers(len(self._faces), size=_FACES)
        good = augment(self._faces[chosen], self._augmentation)
        features = self._extract(good)
        if self._degrade is None:
            return good, features
        bad = augment(good[:_DEGRADED], self._degrade)
        targets = features[:_DEGRADED] / np.linalg.norm(features[:_DEGRADED], axis=1, keepdims=True)
        targets *= np.linalg.norm(self._extract(bad), axis=1, keepdims=True)
        return np.concatenate([good, bad]), np.concatenate([features, targets])
