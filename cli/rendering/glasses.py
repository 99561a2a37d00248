"""Glasses of several kinds."""

import numpy as np

from cli.rendering.canvas import Canvas, smooth
from cli.rendering.pose import Pose
from cli.rendering.shot import Shot
from cli.rendering.traits import Traits


def draw_glasses(canvas: Canvas, traits: Traits, pose: Pose, shot: Shot) -> None:
    """Draw the glasses of a shot, if any."""
    if shot.glasses == "none":
        return
    power = {"thin": 5.0, "thick": 6.0, "round": 2.0, "dark": 3.5}[shot.glasses]
    width = {"thin": 0.9, "thick": 2.2, "round": 1.1, "dark": 1.6}[shot.glasses]
    angle = np.linspace(0.0, 2 * np.pi, 32, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    size = np.array([13.2, 13.2 if shot.glasses == "round" else 10.0])
    rim = size * np.column_stack(
        [np.sign(cos) * np.abs(cos) ** (2 / power), np.sign(sin) * np.abs(sin) ** (2 / power)]
    )
    for side in (-1.0, 1.0):
        lens = rim + np.array([side * (traits.eye_spread + 0.6), -traits.eye_rise + 1.5])
        placed = pose.place(lens, 5.0)
        if shot.glasses == "dark":
            canvas.fill(placed, (30, 28, 26))
        canvas.stroke(placed, shot.frame, width, closed=True)
        edge = np.array(
            [[side * (traits.eye_spread + 13.5), -1.0], [side * (traits.temple + 1), 0]]
        )
        canvas.stroke(
            pose.outline(edge + np.array([0.0, -traits.eye_rise - 2.0])), shot.frame, width
        )
    bridge = np.array([[-1.0, 0.4], [0.0, -0.6], [1.0, 0.4]]) * (traits.eye_spread - 12.4, 1.0)
    place = smooth(bridge + np.array([0.0, -traits.eye_rise]), closed=False)
    canvas.stroke(pose.place(place, 8.0), shot.frame, width)
