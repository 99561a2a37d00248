"""JSON pair files: ``{"pairs": [{"image1": …, "image2": …, "label": 1 or 0}]}``.

An entry may also have ``identity1`` and ``identity2``; other keys are ignored.
"""

import json
import os
from pathlib import Path
from typing import Any

from shared.datasets.pairs import PairSet, PairSetBuilder
from shared.errors import InvalidInput

_NEEDED = ("image1", "image2", "label")


def read_pairs_json(path: Path, images: Path | None = None) -> PairSet:
    """Read a JSON pair file.

    Args:
        path: The file.
        images: Folder that the paths are relative to; the folder of the file when None.

    Raises:
        InvalidInput: If an entry lacks a key, names a file that does not exist, compares an image
            with itself, or contradicts an earlier entry; names the entry.
    """
    folder = path.parent if images is None else images
    builder = PairSetBuilder()
    seen: dict[frozenset[int], tuple[int, bool]] = {}
    for number, entry in enumerate(_entries(path)):
        field = f"{path}: pairs[{number}]"
        genuine = _check_entry(entry, field)
        first, second = (_place(builder, entry, side, folder, field) for side in (1, 2))
        if first == second:
            raise InvalidInput(field, "compares an image with itself")
        earlier, label = seen.setdefault(frozenset((first, second)), (number, genuine))
        if label != genuine:
            raise InvalidInput(field, f"contradicts pairs[{earlier}], which has the same images")
        builder.pair(first, second, genuine)
    return builder.build()


def write_pairs_json(pair_set: PairSet, path: Path) -> None:
    """Write a pair set whose images are files; paths are relative to the folder of the JSON.

    Raises:
        InvalidInput: If an image is not a file.
    """
    names = []
    for number, source in enumerate(pair_set.images):
        if not isinstance(source, Path):
            raise InvalidInput(f"images[{number}]", "is not a file; a JSON pair file needs paths")
        names.append(Path(os.path.relpath(source, path.parent)).as_posix())
    entries = []
    for (first, second), genuine in zip(
        pair_set.pairs.tolist(), pair_set.labels.tolist(), strict=True
    ):
        entry: dict[str, str | int] = {
            "image1": names[first],
            "image2": names[second],
            "label": int(genuine),
        }
        if pair_set.identities is not None:
            entry["identity1"] = pair_set.identities[first]
            entry["identity2"] = pair_set.identities[second]
        entries.append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pairs": entries}, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _entries(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(str(path), f"is not JSON: {error}") from error
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error.strerror}") from error
    entries = content.get("pairs") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InvalidInput(str(path), 'has no list "pairs" at the top level')
    return entries


def _check_entry(entry: Any, field: str) -> bool:
    if not isinstance(entry, dict):
        raise InvalidInput(field, "is not an object with image1, image2 and label")
    missing = [key for key in _NEEDED if key not in entry]
    if missing:
        raise InvalidInput(
            field, f"has no {' and no '.join(missing)}; its keys are {', '.join(entry) or 'none'}"
        )
    label = entry["label"]
    if label not in (0, 1) or not isinstance(label, int):
        raise InvalidInput(
            f"{field}.label", f"is {label!r}; it must be 1 (same person) or 0 (different people)"
        )
    return bool(label)


def _place(
    builder: PairSetBuilder, entry: dict[str, Any], side: int, folder: Path, field: str
) -> int:
    name, identity = entry[f"image{side}"], entry.get(f"identity{side}")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{field}.image{side}", f"is {name!r}, not the path of an image")
    if identity is not None and not isinstance(identity, str):
        raise InvalidInput(f"{field}.identity{side}", f"is {identity!r}, not a name")
    # Normalised, so that `a/../b.jpg` and `b.jpg` are one image.
    source = Path(os.path.normpath(folder / name))
    if not source.is_file():
        raise InvalidInput(f"{field}.image{side}", f"names {source}, which is not a file")
    return builder.image(source, identity)
