"""Folders of identities for tests of sampling."""

import pickle
from pathlib import Path

from shared.datasets.pairs import PairSet

# The content does not matter, because no test decodes it.
CONTENT = b"picture"


def people(folder: Path, counts: dict[str, int]) -> dict[str, list[Path]]:
    """Create a folder per identity with that many images, with names as in LFW."""
    identities = {}
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        identities[name] = [folder / name / f"{name}_{k:04d}.jpg" for k in range(1, count + 1)]
        for file in identities[name]:
            file.write_bytes(CONTENT)
    return identities


def made_up(people: int, images: int) -> dict[str, list[Path]]:
    """People whose files do not exist."""
    return {
        f"p{person:04d}": [Path(f"/none/p{person:04d}/{image:03d}.jpg") for image in range(images)]
        for person in range(people)
    }


def bin_file(path: Path, images: list[bytes], labels: list[bool], protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps((images, labels), protocol=protocol))
    return path


def same(one: PairSet, other: PairSet) -> bool:
    return (
        one.images == other.images
        and one.pairs.tolist() == other.pairs.tolist()
        and one.labels.tolist() == other.labels.tolist()
        and one.identities == other.identities
    )
