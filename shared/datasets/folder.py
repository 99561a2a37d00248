"""Folders of images, and folders with one subfolder per identity."""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from shared.datasets.groups import GROUPS_FILE
from shared.datasets.user_files import no_file, unreadable
from shared.errors import InvalidInput
from shared.validation import normal_name

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".heic", ".heif", ".avif")


class FoundImages(NamedTuple):
    """The images of a folder.

    Attributes:
        images: Paths of the files, sorted.
        unusable: What cannot be looked at, such as a link to nothing, what has the suffix of an
            image and is neither a file nor a folder, and names that are not UTF-8. Each error
            names its path.
    """

    images: list[Path]
    unusable: list[InvalidInput]


class FoundPeople(NamedTuple):
    """The images of a folder of people.

    Attributes:
        images: Paths of the files by identity, sorted by name. Names are normalised, so that
            folders whose names differ only in the form of Unicode or in white space are one
            identity. The files of each folder are sorted.
        unusable: Like that of `FoundImages`.
    """

    images: dict[str, list[Path]]
    unusable: list[InvalidInput]


def find_images(folder: Path) -> FoundImages:
    """Find the images in a folder and in all folders below it.

    Files with the suffix of an image count, also through links. Hidden files and folders, whose
    names begin with a dot, do not. Links to folders are followed, and each folder is looked into
    once, so a link to a folder above it adds nothing.

    Raises:
        InvalidInput: If the folder does not exist or cannot be listed.
    """
    _visible(folder)
    return _walk(folder, set())


def read_identities(folder: Path) -> FoundPeople:
    """Find the images of each identity.

    Args:
        folder: Has one subfolder per identity, or a link to one. All images in it and in the
            folders below it are images of that identity; `find_images` says which. Hidden
            subfolders, subfolders without images, files beside the subfolders and whatever is
            called ``groups.csv`` do not count.

    Raises:
        InvalidInput: If the folder does not exist, cannot be listed, or has no identity with an
            image.
    """
    images: dict[str, list[Path]] = {}
    unusable: list[InvalidInput] = []
    for person in _visible(folder):
        if person.name == GROUPS_FILE:
            continue
        try:
            is_folder = stat.S_ISDIR(_mode(person))
        except InvalidInput as error:
            unusable.append(error)
            continue
        if is_folder:
            # A link in a person's folder to the folder of all people would give them every image.
            found = _walk(person, {_identity(folder)})
            unusable += found.unusable
            if found.images:
                images.setdefault(normal_name(person.name), []).extend(found.images)
    if not images:
        first = f"; what cannot be read includes {unusable[0]}" if unusable else ""
        raise InvalidInput(
            str(folder), f"has no subfolder with images; each identity needs one{first}"
        )
    return FoundPeople(dict(sorted(images.items())), unusable)


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


def _walk(folder: Path, entered: set[tuple[int, int]]) -> FoundImages:
    """Find the images below a folder, without the folders that were entered before."""
    found = FoundImages([], [])
    folders: list[Path] = [folder]
    links: list[Path] = []
    while folders or links:
        # Links come last, so that an image has its own path if it has one in this folder.
        current = folders.pop() if folders else links.pop()
        try:
            this = _identity(current)
            if this in entered:
                continue
            entered.add(this)
            entries = _visible(current)
        except InvalidInput as error:
            found.unusable.append(error)
            continue
        for entry in entries:
            try:
                mode = _mode(entry)
            except InvalidInput as error:
                found.unusable.append(error)
                continue
            if stat.S_ISDIR(mode):
                (links if entry.is_symlink() else folders).append(entry)
            elif entry.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            elif stat.S_ISREG(mode):
                found.images.append(entry)
            else:
                found.unusable.append(no_file(entry, mode))
    found.images.sort()
    found.unusable.sort(key=lambda error: error.field)
    return found


def _mode(entry: Path) -> int:
    """Return the mode of what an entry is or links to."""
    try:
        # Names go into messages and JSON files, which are UTF-8.
        entry.name.encode()
        return entry.stat().st_mode
    except UnicodeEncodeError as error:
        name = str(entry).encode("utf-8", "backslashreplace").decode()
        raise InvalidInput(name, "has a name that is not UTF-8") from error
    except OSError as error:
        raise unreadable(entry, error) from error


def _visible(folder: Path) -> list[Path]:
    """List the entries of a folder that are not hidden, sorted by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InvalidInput(str(folder), f"cannot be listed: {error.strerror}") from error


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise unreadable(folder, error) from error
    return status.st_dev, status.st_ino
