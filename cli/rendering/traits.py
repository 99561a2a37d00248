"""Traits of a rendered person: the parameters that are the same in all images."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Colour = tuple[float, float, float]
"""Blue, green, red, 0..255."""

Beard = Literal["none", "stubble", "moustache", "goatee", "full"]
SkinTone = Literal["light skin", "medium skin", "dark skin"]
Hairline = Literal["round", "straight", "peak", "receding", "parted", "fringe"]

# From fair to dark; skin colours are interpolated between two neighbours.
_SKINS: Final = (
    (196, 211, 240),
    (170, 194, 232),
    (146, 177, 221),
    (120, 154, 203),
    (92, 126, 178),
    (70, 97, 146),
    (54, 73, 112),
    (44, 56, 84),
)
# Luminances that divide the line through these colours into thirds.
_LIGHT_FROM: Final = 180
_MEDIUM_FROM: Final = 118
_HAIR_COLOURS: Final = (
    (22, 22, 26),
    (30, 38, 52),
    (38, 56, 84),
    (52, 86, 128),
    (90, 140, 184),
    (140, 186, 214),
    (38, 70, 150),
    (150, 152, 156),
    (212, 214, 216),
)
_EYE_COLOURS: Final = (
    (22, 34, 52),
    (32, 58, 92),
    (52, 92, 128),
    (80, 116, 96),
    (150, 124, 86),
    (186, 160, 120),
    (128, 128, 122),
)


@dataclass(frozen=True)
class Traits:
    """Parameters of a face.

    Lengths are pixels of the aligned 112x112 crop, measured from the tip of the nose, y
    downwards; angles are radians. ``spots`` are moles and freckles: x, y, radius, darkness 0..1.
    """

    skin: Colour
    forehead: float
    temple: float
    cheek: float
    jaw: float
    chin: float
    chin_drop: float
    crown: float
    ear: float
    eye_spread: float
    eye_rise: float
    eye_width: float
    eye_height: float
    eye_slant: float
    lid_fold: float
    iris: Colour
    iris_size: float
    brow_rise: float
    brow_length: float
    brow_thickness: float
    brow_arch: float
    brow_slant: float
    brow_darkness: float
    nose_width: float
    nose_bridge: float
    nose_height: float
    nose_drop: float
    nose_hook: float
    mouth_drop: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    mouth_curve: float
    lips: Colour
    cheekbone: float
    hollow: float
    hair: Colour
    hairline: Hairline
    hair_start: float
    hair_volume: float
    hair_length: float
    hair_curl: float
    bald: bool
    beard: Beard
    age: float
    spots: tuple[tuple[float, float, float, float], ...]
    wears_glasses: float


def draw_traits(person_seed: int) -> Traits:
    """Draw the traits of a person; the same seed gives the same person."""
    rng = np.random.default_rng([person_seed, 0x9E50])
    return _Dice(rng).person()


def skin_tone(traits: Traits) -> SkinTone:
    """Return the third of the skin colours that a person's is in."""
    blue, green, red = traits.skin
    luminance = 0.114 * blue + 0.587 * green + 0.299 * red
    if luminance >= _LIGHT_FROM:
        return "light skin"
    return "medium skin" if luminance >= _MEDIUM_FROM else "dark skin"


@dataclass
class _Dice:
    rng: np.random.Generator

    def between(self, low: float, high: float) -> float:
        """Draw uniformly from a range."""
        return float(low + (high - low) * self.rng.random())

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def one_of(self, weights: dict[str, float]) -> str:
        bounds = np.cumsum(list(weights.values()))
        return list(weights)[int(np.searchsorted(bounds, self.rng.random() * bounds[-1]))]

    def along(self, colours: tuple[tuple[int, int, int], ...], spread: float) -> Colour:
        """Draw a colour near the line through these colours."""
        place = self.between(0, len(colours) - 1)
        left = min(int(place), len(colours) - 2)
        mixed = np.array(colours[left]) * (left + 1 - place) + np.array(colours[left + 1]) * (
            place - left
        )
        return self.near(mixed, spread)

    def near(self, colour: np.ndarray, spread: float) -> Colour:
        blue, green, red = np.clip(colour + spread * (2 * self.rng.random(3) - 1), 4, 250).tolist()
        return blue, green, red

    def person(self) -> Traits:
        skin = self.along(_SKINS, 9)
        age = self.between(0, 1) ** 1.5
        bearded = self.chance(0.4)
        bald = bearded and self.chance(0.2)
        hair = self.near(np.array(_HAIR_COLOURS[int(self.rng.integers(len(_HAIR_COLOURS)))]), 12)
        eyes = _EYE_COLOURS[int(self.rng.integers(len(_EYE_COLOURS)))]
        lip_tint = np.array([self.between(-28, 4), self.between(-48, -18), self.between(-14, 20)])
        jaw = self.between(29, 42)
        return Traits(
            skin=skin,
            forehead=self.between(37, 47),
            temple=self.between(43, 52),
            cheek=self.between(41, 51),
            jaw=jaw,
            chin=self.between(11, 22) * jaw / 35,
            chin_drop=self.between(40, 54),
            crown=self.between(76, 96),
            ear=self.between(0.6, 1.4),
            eye_spread=self.between(15.6, 20.6),
            eye_rise=self.between(17.5, 23.5),
            eye_width=self.between(6.8, 9.8),
            eye_height=self.between(2.6, 5.2),
            eye_slant=self.between(-0.2, 0.24),
            lid_fold=self.between(0, 3.2),
            iris=self.near(np.array(eyes), 14),
            iris_size=self.between(2.7, 3.7),
            brow_rise=self.between(6.2, 11),
            brow_length=self.between(8.5, 12.5),
            brow_thickness=self.between(0.8, 3.6),
            brow_arch=self.between(-0.4, 3.6),
            brow_slant=self.between(-0.2, 0.2),
            brow_darkness=self.between(0.35, 1),
            nose_width=self.between(6.6, 12.6),
            nose_bridge=self.between(2.2, 5.4),
            nose_height=self.between(11, 21),
            nose_drop=self.between(-2.5, 4),
            nose_hook=self.between(-1, 1),
            mouth_drop=self.between(17.5, 24.5),
            mouth_width=self.between(10.5, 18),
            upper_lip=self.between(0.8, 4),
            lower_lip=self.between(1.6, 5.2),
            mouth_curve=self.between(-1.6, 1.6),
            lips=self.near(np.clip(np.array(skin) + lip_tint, 20, 230), 8),
            cheekbone=self.between(0, 1),
            hollow=self.between(-0.6, 1),
            hair=hair,
            hairline=self._hairline(),
            hair_start=self.between(-60, -44),
            hair_volume=self.between(1, 13),
            hair_length=self.between(-20, 70) if not bearded else self.between(-30, 10),
            hair_curl=self.between(0, 1) ** 2,
            bald=bald,
            beard=self._beard() if bearded else "none",
            age=age,
            spots=self._moles() + (self._freckles() if self.chance(0.15) else ()),
            wears_glasses=0.85 if self.chance(0.16) else 0.07,
        )

    def _hairline(self) -> Hairline:
        weights: dict[str, float] = {
            "round": 2, "straight": 1.5, "peak": 1, "receding": 1, "parted": 2, "fringe": 2,
        }  # fmt: skip
        return self.one_of(weights)  # type: ignore[return-value]

    def _beard(self) -> Beard:
        weights: dict[str, float] = {"stubble": 2, "moustache": 1, "goatee": 1.2, "full": 1.5}
        return self.one_of(weights)  # type: ignore[return-value]

    def _moles(self) -> tuple[tuple[float, float, float, float], ...]:
        count = int(np.searchsorted([0.5, 0.8, 0.95], self.rng.random()))
        return tuple(
            (self.between(-28, 28), self.between(-34, 34), self.between(0.7, 1.6), 0.75)
            for _ in range(count)
        )

    def _freckles(self) -> tuple[tuple[float, float, float, float], ...]:
        return tuple(
            (self.between(-27, 27), self.between(-14, 12), self.between(0.35, 0.7), 0.35)
            for _ in range(45)
        )
