"""Head, neck, ears, skin marks and beard."""

from typing import Final

import numpy as np

from cli.rendering.canvas import Canvas, darker, mix, smooth
from cli.rendering.pose import Points, Pose
from cli.rendering.shot import Shot
from cli.rendering.traits import Colour, Traits

_EAR_HEIGHT: Final = -14.0


def head_outline(traits: Traits, widen: float = 0.0) -> Points:
    """Contour of the head in the face's coordinates, from the crown clockwise."""
    t = traits
    right = np.array(
        [
            [0.5 * t.forehead + widen, -t.crown * 0.97 - widen],
            [0.92 * t.forehead + widen, -t.crown * 0.8 - widen],
            [t.forehead + 3 + widen, -t.crown * 0.6],
            [t.temple + widen, -26.0],
            [t.cheek + widen, 0.0],
            [0.45 * t.cheek + 0.55 * t.jaw + widen, 18.0],
            [t.jaw, 0.66 * t.chin_drop],
            [t.chin, t.chin_drop - 3.0],
        ]
    )
    left = right[::-1] * np.array([-1.0, 1.0])
    ends = ([[0.0, -t.crown - widen]], [[0.0, t.chin_drop]])
    return smooth(np.concatenate([ends[0], right, ends[1], left]))


def draw_neck(canvas: Canvas, traits: Traits, pose: Pose, clothes: Colour) -> list[Points]:
    """Draw neck and shoulders; returns their contours."""
    top, wide = traits.chin_drop - 26.0, 0.8 * traits.jaw
    neck = pose.place_at(
        np.array([[-wide, top], [wide, top], [wide + 3, 90.0], [-wide - 3, 90.0]]), -12.0
    )
    shoulders = pose.place_at(
        np.array([[-90.0, 90.0], [-70, 66], [-wide, 52], [wide, 52], [70, 66], [90, 90.0]]), -14.0
    )
    canvas.fill(neck, darker(traits.skin, 0.72))
    canvas.fill(shoulders, clothes)
    return [neck, shoulders]


def draw_ears(canvas: Canvas, traits: Traits, pose: Pose) -> list[Points]:
    """Draw both ears behind the head; returns their contours."""
    contours = []
    angle = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
    for side in (-1.0, 1.0):
        centre = np.array([side * (traits.cheek + 1.5 * traits.ear), _EAR_HEIGHT + 4.0])
        size = np.array([4.6, 10.5]) * (0.6 + 0.4 * traits.ear)
        ear = centre + size * np.column_stack([np.cos(angle), np.sin(angle)])
        contours.append(pose.outline(ear))
        canvas.fill(contours[-1], darker(traits.skin, 0.88))
        canvas.fill(pose.outline(centre + 0.55 * (ear - centre)), darker(traits.skin, 0.7))
    return contours


def draw_skin(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> list[Points]:
    """Draw the bare head with its marks; returns its contour."""
    outline = pose.outline(head_outline(traits))
    canvas.fill(outline, traits.skin)
    if traits.spots:
        places = pose.place(np.array(traits.spots)[:, :2])
        for place, (_, _, radius, darkness) in zip(places, traits.spots, strict=True):
            canvas.dot(place, radius, mix(traits.skin, darker(traits.skin, 0.3), darkness))
    _draw_age(canvas, traits, pose, float(np.clip(traits.age + shot.years, 0.0, 1.0)), shot)
    return [outline]


def _draw_age(canvas: Canvas, traits: Traits, pose: Pose, age: float, shot: Shot) -> None:
    ink = mix(traits.skin, darker(traits.skin, 0.5), 0.15 + 0.75 * age)
    if age > 0.45:
        for row in range(3):
            x = np.linspace(-20.0, 20.0, 9)
            y = -38.0 - 6.0 * row - shot.brow_lift + 1.2 * np.cos(x / 7.0 + row)
            canvas.stroke(pose.place(np.column_stack([x, y])), ink, 0.7)
    fold = 0.35 * age + 0.4 * max(0.0, shot.smile)
    for side in (-1.0, 1.0):
        if fold > 0.2:
            corners = np.array(
                [
                    [traits.nose_width + 1.5, traits.nose_drop + 1],
                    [traits.mouth_width * 0.8 + 4.5, 12.0],
                    [traits.mouth_width + 4.0 + 2 * shot.smile, traits.mouth_drop + 1],
                ]
            )
            line = smooth(corners * np.array([side, 1.0]), closed=False)
            canvas.stroke(pose.place(line), mix(traits.skin, darker(traits.skin, 0.5), fold), 0.9)
        if age > 0.35:
            _draw_eye_lines(canvas, traits, pose, side, ink)


def _draw_eye_lines(canvas: Canvas, traits: Traits, pose: Pose, side: float, ink: Colour) -> None:
    x = np.linspace(-0.8, 0.8, 7) * traits.eye_width
    bag = np.column_stack(
        [side * traits.eye_spread + x, 5.6 - 1.6 * (x / 7) ** 2 - traits.eye_rise]
    )
    canvas.stroke(pose.place(bag), ink, 0.8)
    start = side * (traits.eye_spread + traits.eye_width + 2.0)
    for spread in (-2.6, 0.0, 2.6):
        foot = np.array(
            [
                [start, -traits.eye_rise + 0.4 * spread],
                [start + side * 5, -traits.eye_rise + spread],
            ]
        )
        canvas.stroke(pose.place(foot - np.array([0.0, traits.eye_rise])), ink, 0.6)


def draw_beard(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> None:
    """Draw the beard; the mouth is drawn over it later."""
    t = traits
    if t.beard == "none":
        return
    density = 0.25 + 0.3 * shot.stubble if t.beard == "stubble" else 0.78 + 0.15 * shot.stubble
    ink = mix(t.skin, darker(t.hair, 0.8), density)
    if t.beard in ("stubble", "full"):
        canvas.fill(pose.outline(_full_beard(t)), ink)
        # Skin again above the upper edge of the beard.
        canvas.fill(pose.place(_beard_opening(t)), t.skin)
    if t.beard == "goatee":
        chin = np.array([[-0.75, 5.0], [-0.62, 16.0], [0.62, 16.0], [0.75, 5.0], [0.0, 7.0]])
        patch = smooth(chin * np.array([t.mouth_width, 1.0]) + np.array([0.0, t.mouth_drop]))
        canvas.fill(pose.place(patch), ink)
    _draw_moustache(canvas, t, pose, ink)


def _draw_moustache(canvas: Canvas, traits: Traits, pose: Pose, ink: Colour) -> None:
    wide, low, top = traits.mouth_width + 1.5, traits.mouth_drop, traits.nose_drop + 4.5
    half = np.array(
        [[0.0, top + 1.5], [0.55 * wide, top + 2.0], [wide, low + 1.0], [0.5 * wide, low - 1.0]]
    )
    canvas.fill(pose.place(smooth(np.concatenate([half, half[:0:-1] * [-1.0, 1.0]]))), ink)


def _full_beard(traits: Traits) -> Points:
    outline = head_outline(traits, 0.3)
    lower = outline[outline[:, 1] > -6.0]
    return lower + np.array([0.0, 1.0]) * np.clip(lower[:, 1:] / 40.0, 0.0, 1.0) * 1.5


def _beard_opening(traits: Traits) -> Points:
    t = traits
    edge = np.array(
        [
            [t.cheek - 2.0, -8.0],
            [t.cheek - 4.5, 8.0],
            [t.mouth_width + 9.0, 0.72 * t.mouth_drop],
            [t.nose_width + 2.0, t.nose_drop + 5.0],
        ]
    )
    return np.concatenate([edge, edge[::-1] * np.array([-1.0, 1.0])])
