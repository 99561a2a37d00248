"""Parameters of one image of a person: everything except the identity."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cli.rendering.traits import Hairline

Glasses = Literal["none", "thin", "thick", "round", "dark"]


@dataclass(frozen=True)
class Shot:
    """Parameters of one image.

    Angles are in radians, lengths in pixels of the 112x112 crop, strengths 0..1 unless stated.

    Attributes:
        yaw: Rotation of the head to the right of the image.
        pitch: Rotation of the head downwards.
        distance: Distance of the camera, in the same pixels; a near camera distorts.
        smile: -0.4 (frown) to 1.
        light: Direction towards the light: right, down, to the viewer; unit length.
        ambient: Share of ambient light.
        tint: Colour of the light, as BGR gains.
        years: Shift of the age lines.
        restyled: The hairline, when it is not the person's usual one.
        hair_tied: Whether long hair is hidden.
        cap: Whether a knitted cap covers hair and forehead; `cloth` is its colour.
        sharp_pixels: Side of the image in pixels, as resolved by the camera.
    """

    yaw: float
    pitch: float
    distance: float
    jitter: NDArray[np.float64]
    smile: float
    mouth_open: float
    eyes_open: float
    brow_lift: float
    gaze: tuple[float, float]
    glasses: Glasses
    frame: tuple[float, float, float]
    restyled: Hairline | None
    hair_tied: bool
    cap: bool
    cloth: tuple[float, float, float]
    hair_growth: float
    years: float
    stubble: float
    make_up: float
    backdrop: tuple[tuple[float, float, float], tuple[float, float, float]]
    light: tuple[float, float, float]
    ambient: float
    exposure: float
    contrast: float
    saturation: float
    tint: tuple[float, float, float]
    sharp_pixels: float
    blur: float
    motion: tuple[float, float]
    noise: float
    jpeg_quality: int


def draw_shot(rng: np.random.Generator, wears_glasses: float) -> Shot:
    """Draw the parameters of one image.

    Args:
        rng: Random generator.
        wears_glasses: Probability that this person wears glasses.
    """

    def bell(width: float, limit: float) -> float:
        return float(np.clip(rng.normal(0.0, width), -limit, limit))

    def between(low: float, high: float) -> float:
        return float(low + (high - low) * rng.random())

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def colour(low: float, high: float) -> tuple[float, float, float]:
        return between(low, high), between(low, high), between(low, high)

    def muted() -> tuple[float, float, float]:
        grey = between(30, 215)
        blue, green, red = (grey + between(-30, 30) for _ in range(3))
        return blue, green, red

    light = np.array([bell(0.65, 1.3), bell(0.35, 0.7) - 0.35, 1.0])
    warmth = bell(0.06, 0.14)
    glasses: Glasses = "none"
    if chance(wears_glasses):
        glasses = ("thin", "thick", "round", "dark")[min(3, int(rng.random() * 3.25))]
    poor = chance(0.4)
    return Shot(
        yaw=bell(0.26, 0.6),
        pitch=bell(0.14, 0.32),
        distance=between(260, 900),
        jitter=rng.normal(0.0, 0.7, (5, 2)),
        smile=between(-0.4, 1.0) if chance(0.75) else 0.0,
        mouth_open=between(0.2, 1.0) if chance(0.3) else 0.0,
        eyes_open=between(0.55, 1.15),
        brow_lift=bell(0.9, 2.0),
        gaze=(bell(0.3, 0.7), bell(0.15, 0.3)),
        glasses=glasses,
        frame=colour(15, 90),
        restyled=get_args(Hairline)[int(rng.integers(6))] if chance(0.35) else None,
        hair_tied=chance(0.3),
        cap=chance(0.12),
        cloth=muted(),
        hair_growth=bell(2.5, 5.0),
        years=bell(0.12, 0.25),
        stubble=between(0, 1),
        make_up=between(0, 0.6) if chance(0.25) else 0.0,
        backdrop=(muted(), muted()),
        light=tuple((light / np.linalg.norm(light)).tolist()),
        ambient=between(0.35, 0.8),
        exposure=float(np.exp(bell(0.18, 0.4))),
        contrast=between(0.75, 1.2),
        saturation=between(0.55, 1.2) if not chance(0.08) else 0.0,
        tint=(1 - warmth, 1.0, 1 + warmth),
        sharp_pixels=between(26, 70) if poor else between(70, 112),
        blur=between(0, 1.1) if chance(0.5) else 0.0,
        motion=(bell(1.2, 3.0), bell(0.8, 2.0)) if chance(0.2) else (0.0, 0.0),
        noise=between(4, 14) if poor else between(0, 5),
        jpeg_quality=int(between(30, 75)) if poor else int(between(70, 96)),
    )
