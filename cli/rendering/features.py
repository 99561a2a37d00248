"""Eyes, brows, nose and mouth."""

import numpy as np
from numpy.typing import NDArray

from cli.rendering.canvas import Canvas, darker, mix, smooth
from cli.rendering.pose import Points, Pose
from cli.rendering.shot import Shot
from cli.rendering.traits import Traits


class _Eye:
    """One eye's curves, with u from the inner (-width) to the outer (+width) corner."""

    def __init__(self, traits: Traits, shot: Shot, side: float) -> None:
        self.side = side
        self.width = traits.eye_width
        squint = 1.0 - 0.28 * max(0.0, shot.smile)
        self.height = max(0.9, traits.eye_height * shot.eyes_open * squint)
        self.slant = traits.eye_slant
        self.centre = np.array([side * traits.eye_spread, -traits.eye_rise])

    def upper(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        bend = np.clip(1.0 - np.abs(u / self.width + 0.12) ** 2.2, 0.0, None)
        return np.asarray(-self.height * bend, dtype=np.float64)

    def lower(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        bend = np.clip(1.0 - (u / self.width - 0.12) ** 2, 0.0, None)
        return np.asarray(0.55 * self.height * bend, dtype=np.float64)

    def at(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> Points:
        """Face coordinates of u outwards and v downwards."""
        placed: Points = self.centre + np.column_stack([self.side * u, v - u * np.tan(self.slant)])
        return placed


def draw_eyes(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> None:
    """Draw both eyes with their lids."""
    for side in (-1.0, 1.0):
        eye = _Eye(traits, shot, side)
        u = np.linspace(-eye.width, eye.width, 15)
        up, down = eye.at(u, eye.upper(u)), eye.at(u, eye.lower(u))
        canvas.fill(pose.place(np.concatenate([up, down[::-1]]), -2.0), (206, 212, 218))
        _draw_iris(canvas, traits, pose, shot, eye)
        lash = mix(darker(traits.skin, 0.25), (18, 18, 20), 0.6 + 0.4 * shot.make_up)
        canvas.stroke(pose.place(up, -2.0), lash, 1.0 + 0.9 * shot.make_up)
        canvas.stroke(pose.place(down, -2.0), darker(traits.skin, 0.55), 0.5)
        if traits.lid_fold > 0.6:
            crease = eye.at(u, eye.upper(u) * 0.9 - traits.lid_fold)
            canvas.stroke(pose.place(crease[1:-1], -2.0), darker(traits.skin, 0.62), 0.6)


def _draw_iris(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot, eye: _Eye) -> None:
    look = np.array([eye.side * shot.gaze[0] * 2.4, shot.gaze[1] * 2.0 - 0.25 * eye.height])
    angle = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    for radius, colour in (
        (traits.iris_size, darker(traits.iris, 0.55)),
        (traits.iris_size * 0.84, traits.iris),
        (traits.iris_size * 0.42, (12, 12, 14)),
    ):
        u, v = (look + radius * ring).T
        u = np.clip(u, -eye.width, eye.width)
        # The lids cover parts of the iris outside of the eye.
        v = np.clip(v, eye.upper(u), eye.lower(u))
        canvas.fill(pose.place(eye.at(u, v), -2.0), colour)
    glint = eye.at(look[:1] + eye.side * shot.light[0], look[1:] - 1.0)
    canvas.dot(pose.place(glint, -2.0), 0.55, (235, 240, 240))


def draw_brows(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> None:
    """Draw both brows as tapering arcs."""
    t = traits
    base = darker(t.hair, 0.62) if not t.bald else darker(t.skin, 0.4)
    ink = mix(t.skin, base, 0.4 + 0.6 * t.brow_darkness)
    u = np.linspace(-1.0, 1.0, 13)
    arch = t.brow_arch * (1.0 - (u - 0.25) ** 2) + t.brow_slant * u * t.brow_length
    middle = -t.eye_rise - t.brow_rise - shot.brow_lift - arch
    thick = 0.5 * t.brow_thickness * np.clip(1.05 - np.clip(u, 0.0, 1.0) ** 2, 0.12, None)
    for side in (-1.0, 1.0):
        x = side * (t.eye_spread + 0.8 + u * t.brow_length)
        top = np.column_stack([x, middle - thick])
        bottom = np.column_stack([x, middle + thick])
        canvas.fill(pose.place(np.concatenate([top, bottom[::-1]]), 1.0), ink)


def draw_nose(canvas: Canvas, traits: Traits, pose: Pose) -> None:
    """Draw wings, nostrils and the shadow below; the bridge is shaded in `light`."""
    t = traits
    tip, lift = t.nose_drop, 0.55 * t.nose_height
    shadow, dark = darker(t.skin, 0.66), darker(t.skin, 0.3)
    under = np.array(
        [[-0.8 * t.nose_width, 3.0], [0.0, 5.4 + t.nose_hook], [0.8 * t.nose_width, 3.0], [0, 2.6]]
    )
    canvas.fill(pose.place(smooth(under + np.array([0.0, tip])), lift), darker(t.skin, 0.8))
    for side in (-1.0, 1.0):
        wing = np.array(
            [
                [0.78 * t.nose_width, -4.0],
                [t.nose_width, -0.5],
                [0.92 * t.nose_width, 3.0],
                [0.62 * t.nose_width, 3.8],
            ]
        )
        line = smooth(wing * np.array([side, 1.0]) + np.array([0.0, tip]), closed=False)
        canvas.stroke(pose.place(line, 0.5 * lift), shadow, 0.9)
        angle = np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
        size = np.array([0.24 * t.nose_width, 1.2])
        nostril = np.column_stack([np.cos(angle), np.sin(angle)]) * size
        nostril += np.array([side * 0.46 * t.nose_width, tip + 3.4])
        canvas.fill(pose.place(nostril, 0.8 * lift), dark)


def draw_mouth(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> None:
    """Draw lips, and teeth where the mouth is open."""
    t = traits
    wide = t.mouth_width * (1.0 + 0.13 * shot.smile)
    rise = -(t.mouth_curve + 3.2 * shot.smile)
    gap = 6.5 * shot.mouth_open
    u = np.linspace(-1.0, 1.0, 17)
    corner = t.mouth_drop + rise * u**2
    shape = np.sqrt(np.clip(1.0 - u**2, 0.0, None))
    bow = shape * (1.0 - 0.3 * np.exp(-((u / 0.16) ** 2)))
    x = wide * u
    seam_up, seam_low = corner - 0.2 * gap * shape, corner + 0.8 * gap * shape
    top = seam_up - t.upper_lip * bow * (1.0 - 0.25 * max(0.0, shot.smile))
    bottom = seam_low + t.lower_lip * shape**1.3
    lips = mix(t.lips, (60, 40, 170), shot.make_up)
    canvas.fill(pose.place(_band(x, top, bottom), 2.0), darker(lips, 0.92))
    canvas.fill(pose.place(_band(x, seam_low, bottom), 2.0), lips)
    if shot.mouth_open:
        canvas.fill(pose.place(_band(x, seam_up, seam_low), 1.0), (34, 26, 58))
        teeth = np.minimum(seam_low, seam_up + 0.55 * gap * shape)
        canvas.fill(pose.place(_band(0.86 * x, seam_up, teeth), 1.0), (196, 210, 216))
    else:
        seam = np.column_stack([x, seam_up])
        canvas.stroke(pose.place(seam, 2.0), darker(lips, 0.4), 0.9)


def _band(x: Points, top: NDArray[np.float64], bottom: NDArray[np.float64]) -> Points:
    return np.concatenate([np.column_stack([x, top]), np.column_stack([x, bottom])[::-1]])
