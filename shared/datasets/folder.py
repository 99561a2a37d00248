"""Image folders with one subfolder per identity."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from shared.errors import InvalidInput
from shared.validation import normal_name

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".heic", ".heif", ".avif")


def read_identities(folder: Path) -> dict[str, list[Path]]:
    """List the images of each identity.

    Args:
        folder: Has one subfolder per identity. Hidden files and subfolders, subfolders without
            images, and files of other types are ignored.

    Returns:
        Image paths by identity, both sorted by name. Names are normalised, so that folders whose
        names differ only in the form of Unicode or in white space are one identity.

    Raises:
        InvalidInput: If the folder does not exist or has no identity.
    """
    if not folder.is_dir():
        raise InvalidInput(str(folder), "is not a folder")
    identities: dict[str, list[Path]] = {}
    for person in sorted(folder.iterdir(), key=lambda path: path.name):
        if person.is_dir() and not person.name.startswith("."):
            images = [file for file in person.iterdir() if _is_image(file)]
            if images:
                images.sort(key=lambda path: path.name)
                identities.setdefault(normal_name(person.name), []).extend(images)
    if not identities:
        raise InvalidInput(str(folder), "has no subfolder with images; each identity needs one")
    return dict(sorted(identities.items()))


def split_identities(
    identities: Iterable[str], sizes: Mapping[str, int], seed: int
) -> dict[str, list[str]]:
    """Divide identities among named splits; no identity is in two of them.

    Args:
        identities: Names, in any order.
        sizes: Number of identities of each split.
        seed: The same names, sizes and seed give the same splits.

    Raises:
        InvalidInput: If there are too few identities, or a size is not positive.
    """
    names = sorted(set(identities))
    for split, size in sizes.items():
        if size < 1:
            raise InvalidInput(split, f"asks for {size} identities; it needs at least one")
    if sum(sizes.values()) > len(names):
        wanted = ", ".join(f"{split} {size}" for split, size in sizes.items())
        raise InvalidInput(
            "identities", f"there are {len(names)}; the splits ask for more ({wanted})"
        )
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    splits = {}
    for split, size in sizes.items():
        splits[split] = sorted(names[place] for place in order[:size])
        order = order[size:]
    return splits


def _is_image(file: Path) -> bool:
    return (
        file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
