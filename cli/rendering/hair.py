"""Hair behind the head and over the forehead, and caps."""

import numpy as np
from numpy.typing import NDArray

from cli.rendering.canvas import Canvas, darker, mix
from cli.rendering.head import head_outline
from cli.rendering.pose import Points, Pose
from cli.rendering.shot import Shot
from cli.rendering.traits import Hairline, Traits

# Height of the hairline above its start, at nine places from the left temple to the right.
_HAIRLINES: dict[Hairline, tuple[float, ...]] = {
    "round": (-20, -10, -3, 0, 1, 0, -3, -10, -20),
    "straight": (-22, -4, -1, 0, 0, 0, -1, -4, -22),
    "peak": (-20, -8, 2, 1, -5, 1, 2, -8, -20),
    "receding": (-18, 2, 11, 8, 2, 8, 11, 2, -18),
    "parted": (-22, -8, 6, 5, -1, -5, -9, -14, -24),
    "fringe": (-24, -21, -19, -20, -18, -20, -19, -21, -24),
}


def draw_back_hair(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> list[Points]:
    """Draw the hair behind the head; returns its contour."""
    if traits.bald or shot.hair_tied or traits.hair_length < -10:
        return []
    outline = _ripple(head_outline(traits, 2.0 + traits.hair_volume), traits)
    upper = outline[outline[:, 1] < 0.0]
    split = len(upper) // 2
    wide = traits.cheek + 3.0 + traits.hair_volume
    low = traits.hair_length
    ends = np.array(
        [[wide, low * 0.5], [wide * 0.94, low], [-wide * 0.94, low], [-wide, low * 0.5]]
    )
    # The contour starts at the crown, so its upper part is the right side, then the left.
    contour = pose.place_at(np.concatenate([upper[:split], ends, upper[split:]]), -6.0)
    canvas.fill(contour, darker(traits.hair, 0.7))
    return [contour]


def draw_front_hair(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> list[Points]:
    """Draw the hair over skull and forehead; returns its contour."""
    if traits.bald:
        return []
    edge = _hairline(traits, shot)
    outline = _ripple(head_outline(traits, traits.hair_volume), traits)
    upper = outline[outline[:, 1] < -12.0]
    right, left = upper[upper[:, 0] >= 0], upper[upper[:, 0] < 0]
    rim = np.concatenate([pose.outline(left), pose.outline(right)])
    contour = np.concatenate([rim, pose.place(edge[::-1], 1.0)])
    canvas.fill(contour, traits.hair)
    _draw_strands(canvas, traits, rim, pose.place(edge, 1.0))
    return [contour]


def draw_cap(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> list[Points]:
    """Draw the knitted cap of a shot, if any; returns its contour."""
    if not shot.cap:
        return []
    outline = head_outline(traits, 2.5)
    upper = outline[outline[:, 1] < -30.0]
    right, left = upper[upper[:, 0] >= 0], upper[upper[:, 0] < 0]
    x = np.linspace(1.0, -1.0, 15)
    brim = np.column_stack([x * (traits.temple + 2.0), -37.0 - 5.0 * (1.0 - x**2)])
    rim = np.concatenate([pose.outline(left), pose.outline(right)])
    contour = np.concatenate([rim, pose.place(brim, 3.0)])
    canvas.fill(contour, shot.cloth)
    fold = np.concatenate([brim, brim[::-1] - np.array([0.0, 10.0])])
    canvas.fill(pose.place(fold, 4.0), darker(shot.cloth, 0.8))
    return [contour]


def _hairline(traits: Traits, shot: Shot) -> Points:
    style = shot.restyled or traits.hairline
    drop = np.array(_HAIRLINES[style])
    x = np.linspace(-1.0, 1.0, len(drop))
    fine = np.linspace(-1.0, 1.0, 33)
    start = traits.hair_start + shot.hair_growth
    height = start - np.interp(fine, x, drop)
    if style == "fringe":
        height = height + 1.2 * np.cos(fine * 23.0)
    height += 1.6 * traits.hair_curl * np.sin(fine * 19.0)
    # Sideburns end beside the ears.
    ends = np.array([[-traits.cheek + 1.0, -8.0], [traits.cheek - 1.0, -8.0]])
    middle = np.column_stack([fine * (traits.temple - 3.0), np.minimum(height, -17.0)])
    return np.concatenate([ends[:1], middle, ends[1:]])


def _ripple(outline: Points, traits: Traits) -> Points:
    """Make the contour of curly hair wavy."""
    if traits.hair_curl < 0.15:
        return outline
    turn = np.linspace(0.0, 2 * np.pi, len(outline), endpoint=False)
    wave: NDArray[np.float64] = 1.0 + 0.035 * traits.hair_curl * np.sin(turn * 23.0)
    return outline * wave[:, None]


def _draw_strands(canvas: Canvas, traits: Traits, rim: Points, edge: Points) -> None:
    ends = np.linspace(0.0, 1.0, 26)
    starts = _along(edge, ends)
    stops = _along(rim, np.clip(0.5 + 1.15 * (ends - 0.5), 0.0, 1.0))
    sway = 3.0 * traits.hair_curl * np.sin(np.arange(len(ends)) * 1.9)
    middles = 0.5 * (starts + stops) + np.column_stack([sway, 0.0 * sway])
    lines = list(np.stack([starts, middles, stops], axis=1))
    canvas.strokes(lines[::2], darker(traits.hair, 0.8), 0.6)
    canvas.strokes(lines[1::2], mix(traits.hair, (235, 235, 240), 0.09), 0.6)


def _along(line: Points, share: NDArray[np.float64]) -> Points:
    """Points at these shares of a polyline's corners."""
    place = np.arange(len(line)) / (len(line) - 1)
    return np.column_stack([np.interp(share, place, line[:, axis]) for axis in (0, 1)])
