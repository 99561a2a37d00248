"""Faces that training goes on showing, for the network to see them as its parent does."""

from collections.abc import Callable

import numpy as np
from torchvision.transforms import v2

from services.trainer.data.arrays import Crops, Features
from services.trainer.training.augmentation import augment, light_changes

# Faces a step, and how many of them are shown once more as a bad camera would take them.
_FACES, _SPOILED = 16, 8


class Replay:
    """Deals faces out, each time with other light changes.

    A spoiled picture is to get the embedding of the good one, with its own magnitude: whose
    face it is does not depend on the camera, and how good it is does.

    Args:
        faces: uint8 [M, 112, 112, 3], BGR.
        see: What the parent says of crops: features, not normalised.
        spoil: Makes bad pictures of good ones; None deals none out.
    """

    def __init__(
        self, faces: Crops, see: Callable[[Crops], Features], spoil: v2.Transform | None
    ) -> None:
        self._faces = faces
        self._see = see
        self._spoil = spoil
        self._change = light_changes()

    def deal(self, generator: np.random.Generator) -> tuple[Crops, Features]:
        """Choose faces.

        Args:
            generator: Of the choice; the changes draw from torch's global generator.

        Returns:
            R crops, uint8 [R, 112, 112, 3], BGR, and what the network should say of each:
            float32 [R, D].
        """
        chosen = generator.integers(len(self._faces), size=_FACES)
        good = augment(self._faces[chosen], self._change)
        seen = self._see(good)
        if self._spoil is None:
            return good, seen
        bad = augment(good[:_SPOILED], self._spoil)
        wanted = seen[:_SPOILED] / np.linalg.norm(seen[:_SPOILED], axis=1, keepdims=True)
        wanted *= np.linalg.norm(self._see(bad), axis=1, keepdims=True)
        return np.concatenate([good, bad]), np.concatenate([seen, wanted])
