"""Rendering of aligned face crops of artificial people from seeds."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.rendering.camera import Picture, photograph
from cli.rendering.canvas import Canvas, area
from cli.rendering.features import (
    draw_brows,
    draw_eyes,
    draw_mouth,
    draw_nose,
)
from cli.rendering.glasses import draw_glasses
from cli.rendering.hair import draw_back_hair, draw_cap, draw_front_hair
from cli.rendering.head import draw_beard, draw_ears, draw_neck, draw_skin
from cli.rendering.light import shading
from cli.rendering.pose import make_pose
from cli.rendering.shot import Shot, draw_shot
from cli.rendering.traits import SkinTone, Traits, draw_traits, skin_tone
from shared.errors import InvalidInput
from shared.model.image.align import CROP_SIZE


def render_person(person_seed: int, image_seed: int) -> NDArray[np.uint8]:
    """Render one image of one person.

    The identity depends on `person_seed` only. Pose, light, expression, glasses, age and the
    camera's defects depend on both seeds.

    Args:
        person_seed: Seed of the person; 0 or more.
        image_seed: Seed of the image; 0 or more.

    Returns:
        uint8 of shape (112, 112, 3), BGR, aligned to the ArcFace template.
    """
    traits = draw_traits(person_seed)
    rng = np.random.default_rng([person_seed, image_seed, 0x5407])
    shot = draw_shot(rng, traits.wears_glasses)
    return photograph(_scene(traits, shot), shot, rng)


def write_people(
    folder: Path,
    people: int,
    images: int,
    seed: int,
    suffix: Literal[".jpg", ".png"] = ".jpg",
) -> None:
    """Render a folder per identity, ``person_00012/03.jpg``.

    Args:
        folder: Created when absent.
        people: Number of people.
        images: Images of each person.
        seed: Different seeds give different people, up to 100,000 of them.
        suffix: File format.

    Raises:
        InvalidInput: There is nothing to render.
    """
    if people < 1 or images < 1:
        raise InvalidInput("people", f"{people} people with {images} images are nothing to render")
    for person in range(people):
        person_folder = folder / _name(person)
        person_folder.mkdir(parents=True, exist_ok=True)
        for image in range(images):
            pixels = render_person(_person_seed(seed, person), image)
            _, data = cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
            (person_folder / f"{image:02d}{suffix}").write_bytes(data.tobytes())


def groups_of_people(people: int, seed: int) -> dict[str, SkinTone]:
    """Return the skin tone of each person that `write_people` renders, by the name of the folder.

    Args:
        people: Number of people.
        seed: As for `write_people`.
    """
    return {
        _name(person): skin_tone(draw_traits(_person_seed(seed, person)))
        for person in range(people)
    }


def _name(person: int) -> str:
    return f"person_{person:05d}"


def _person_seed(seed: int, person: int) -> int:
    return seed * 100_000 + person


def _scene(traits: Traits, shot: Shot) -> Picture:
    """Draw the lit person in front of the backdrop: float32 [112, 112, 3]."""
    pose = make_pose(traits, shot)
    canvas = Canvas()
    front, back = shot.backdrop
    contours = draw_back_hair(canvas, traits, pose, shot)
    contours += draw_neck(canvas, traits, pose, back)
    contours += draw_ears(canvas, traits, pose)
    contours += draw_skin(canvas, traits, pose, shot)
    draw_beard(canvas, traits, pose, shot)
    draw_mouth(canvas, traits, pose, shot)
    draw_nose(canvas, traits, pose)
    draw_eyes(canvas, traits, pose, shot)
    draw_brows(canvas, traits, pose, shot)
    contours += draw_front_hair(canvas, traits, pose, shot)
    contours += draw_cap(canvas, traits, pose, shot)
    draw_glasses(canvas, traits, pose, shot)
    factor, gloss = shading(traits, pose, shot)
    lit = canvas.shrunk() * factor[..., None] + gloss[..., None]
    mask = area(contours)[..., None]
    ramp = np.linspace(0.0, 1.0, CROP_SIZE, dtype=np.float32)[:, None, None]
    wall = np.array(front, dtype=np.float32) * (1.15 - 0.5 * ramp)
    return np.asarray(lit * mask + wall * (1.0 - mask), dtype=np.float32)
