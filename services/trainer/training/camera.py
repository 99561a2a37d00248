"""Camera of the feedback: how its pictures differ from good ones, learned by trial.

Many random ways of spoiling are tried on good faces. Each picture of the feedback is compared with
the results, and takes the way of the one that it resembles most in sharpness, light, noise and
compression (approximate Bayesian computation; Beaumont 2010). The ways taken together are the
camera: good faces that are spoiled by them look like the feedback. Where the feedback is as good as
the faces, they change little.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import CropArray
from shared.model.image.align import CROP_SIZE

_TRIED, _COMPARED = 1000, 300
_COARSEST = 12
_BANDS = 12
_JPEG_BLOCK = 8
_FLOOR = 0.1
# Place of the light in a description, and the weight of its rank from 0 to 1.
_LIGHT, _RANK_WEIGHT = _BANDS, 8.0

_Crop = NDArray[np.uint8]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spoiling:
    """One way of spoiling a picture, in the order in which a camera does it.

    Attributes:
        side: Width and height of the crop on the sensor, pixels.
        gamma: Exponent of the light.
        gain: Factor of the light after that.
        noise: Standard deviation of the sensor's noise, in steps of 255.
        quality: Quality of the JPEG, 1..100.
    """

    side: int
    gamma: float
    gain: float
    noise: float
    quality: int

    @classmethod
    def draw(cls, generator: np.random.Generator) -> "Spoiling":
        """Draw any way, from none at all to a very poor camera in the dark."""
        return cls(
            side=int(np.exp(generator.uniform(np.log(_COARSEST), np.log(CROP_SIZE + 1)))),
            gamma=generator.uniform(0.7, 1.7),
            gain=generator.uniform(0.3, 1.3),
            noise=generator.exponential(4.0),
            quality=int(generator.integers(20, 101)),
        )

    def apply(self, crop: _Crop, generator: np.random.Generator) -> _Crop:
        """Spoil a crop, uint8 [112, 112, 3], BGR; the generator draws the noise."""
        small = cv2.resize(crop, (self.side, self.side), interpolation=cv2.INTER_AREA)
        light = 255 * self.gain * (small.astype(np.float32) / 255) ** self.gamma
        noisy = light + self.noise * generator.standard_normal(light.shape, np.float32)
        seen = noisy.clip(0, 255).astype(np.uint8)
        large = cv2.resize(seen, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_CUBIC)
        _, jpeg = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


@dataclass(frozen=True)
class Camera:
    """Ways of spoiling, one for each compared picture of the feedback."""

    ways: tuple[Spoiling, ...]

    @classmethod
    def learn(cls, pictures: CropArray, faces: CropArray, seed: int) -> "Camera":
        """Find the ways in which pictures differ from good faces.

        Args:
            pictures: uint8 [N, 112, 112, 3], BGR, of the feedback; a few hundred are looked at.
            faces: uint8 [M, 112, 112, 3], BGR, good faces of any people.
            seed: Seed of the trials.
        """
        generator = np.random.default_rng(seed)
        ways = [Spoiling.draw(generator) for _ in range(_TRIED)]
        chosen = generator.integers(len(faces), size=_TRIED)
        tried = np.stack(
            [
                _describe(way.apply(faces[face], generator))
                for way, face in zip(ways, chosen, strict=True)
            ]
        )
        some = generator.permutation(len(pictures))[:_COMPARED]
        seen = np.stack([_describe(pictures[index]) for index in some])
        gaps = np.square((seen[:, None] - tried) / (tried.std(axis=0) + _FLOOR)).sum(axis=2)
        # A dark face is no sign of a dark camera: the darkest pictures are compared with the
        # darkest faces.
        light = _ranks(np.array([face.mean() for face in faces]))[chosen]
        gaps += np.square(_RANK_WEIGHT * (_ranks(seen[:, _LIGHT])[:, None] - light))
        return cls(tuple(ways[index] for index in gaps.argmin(axis=1)))

    def spoil(self, crops: CropArray, generator: np.random.Generator) -> CropArray:
        """Spoil each crop in a way drawn at random; the same shape, uint8 [N, 112, 112, 3]."""
        ways = generator.integers(len(self.ways), size=len(crops))
        return np.stack(
            [self.ways[way].apply(crop, generator) for way, crop in zip(ways, crops, strict=True)]
        )


def _bands() -> NDArray[np.int64]:
    """Number the bands of spatial frequency of a crop's spectrum."""
    frequency = np.hypot(np.fft.fftfreq(CROP_SIZE)[:, None], np.fft.rfftfreq(CROP_SIZE))
    edges = np.geomspace(1 / CROP_SIZE, 0.5, _BANDS + 1)[1:-1]
    return np.asarray(np.digitize(frequency, edges), np.int64)


_BAND = _bands().ravel()
_IN_BAND = np.bincount(_BAND, minlength=_BANDS)
_WINDOW = np.outer(np.hanning(CROP_SIZE), np.hanning(CROP_SIZE))
_AT_BLOCK = np.arange(1, CROP_SIZE) % _JPEG_BLOCK == 0


def _describe(crop: _Crop) -> _Floats:
    """Describe sharpness and noise, light, colour and compression; not who is on it."""
    grey = crop.mean(axis=2)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * _WINDOW)) ** 2
    spectrum = np.bincount(_BAND, power.ravel(), _BANDS) / _IN_BAND
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=0) + _FLOOR
    colour_step = np.abs(np.diff(crop - grey[..., None], axis=1)).mean()
    return np.concatenate(
        [
            np.log(spectrum + 1),
            np.log([grey.mean() + 1, grey.std() + 1, colour_step + _FLOOR]),
            [np.log(steps[_AT_BLOCK].mean() / steps[~_AT_BLOCK].mean())],
        ]
    )


def _ranks(values: _Floats) -> _Floats:
    """Rank values from 0 to 1."""
    return np.asarray(values.argsort().argsort() / max(len(values) - 1, 1), np.float64)
