"""JSON pair files: ``{"pairs": [{"image1": …, "image2": …, "label": 1 or 0}]}``.

An entry may also have ``identity1`` and ``identity2``. An export of labels has ``images`` beside
``pairs``, each with its ``file``, ``alignment``, ``landmarks`` and ``box``, by which it is cropped
again. Other keys are ignored.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from shared.datasets.pairs import Cropping, PairSet, PairSetBuilder
from shared.datasets.user_files import read_text
from shared.errors import InvalidInput
from shared.model.image.face import Alignment, Box

_NEEDED = ("image1", "image2", "label")
_BOX_SIDES: Final = ("x", "y", "width", "height")


class _ImageFiles(NamedTuple):
    folder: Path
    croppings: dict[Path, Cropping]


def read_pairs_json(path: Path, images: Path | None = None) -> PairSet:
    """Read a JSON pair file.

    Args:
        path: The file.
        images: Folder that the paths are relative to; the folder of the file when None.

    Raises:
        InvalidInput: If an entry lacks a key, compares an image with itself, or contradicts or
            repeats an earlier entry; names the entry. Whether its files exist shows when they
            are read.
    """
    folder = path.parent if images is None else images
    builder = PairSetBuilder(str(path))
    content = _read(path)
    files = _ImageFiles(folder, _croppings(content.get("images"), folder, path))
    for number, entry in enumerate(content["pairs"]):
        field = f"{path}: pairs[{number}]"
        genuine = _check_entry(entry, field)
        first, second = (_place(builder, entry, side, files, field) for side in (1, 2))
        builder.pair(f"pairs[{number}]", first, second, genuine)
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


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(str(path), f"is not JSON: {error}") from error
    entries = content.get("pairs") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InvalidInput(str(path), 'has no list "pairs" at the top level')
    return dict(content)


def _croppings(images: Any, folder: Path, path: Path) -> dict[Path, Cropping]:
    """Read how an export says that its images are cropped, by their files."""
    if not isinstance(images, dict):
        return {}
    found = {}
    for name, image in images.items():
        field = f"{path}: images[{name}]"
        if isinstance(image, dict) and isinstance(image.get("file"), str) and "alignment" in image:
            found[Path(os.path.normpath(folder / image["file"]))] = _cropping(image, field)
    return found


def _cropping(image: dict[str, Any], field: str) -> Cropping:
    alignment = image["alignment"]
    if alignment not in get_args(Alignment):
        raise InvalidInput(
            f"{field}.alignment", f"is {alignment!r}; expected {', '.join(get_args(Alignment))}"
        )
    box = image.get("box")
    points = image.get("landmarks") or ()
    if not isinstance(points, list | tuple):
        raise InvalidInput(f"{field}.landmarks", "is not a list of points")
    landmarks = [_numbers(point, ("x", "y"), f"{field}.landmarks") for point in points]
    return Cropping(
        alignment,
        tuple((x, y) for x, y in landmarks),
        None if box is None else Box(*_numbers(box, _BOX_SIDES, f"{field}.box")),
    )


def _numbers(values: Any, names: tuple[str, ...], field: str) -> list[float]:
    numbers = [values.get(name) for name in names] if isinstance(values, dict) else [None]
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
        raise InvalidInput(field, f"is not an object of numbers {', '.join(names)}")
    return [float(one) for one in numbers if one is not None]


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
    builder: PairSetBuilder,
    entry: dict[str, Any],
    side: int,
    images: _ImageFiles,
    field: str,
) -> int:
    name, identity = entry[f"image{side}"], entry.get(f"identity{side}")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{field}.image{side}", f"is {name!r}, not the path of an image")
    if identity is not None and not isinstance(identity, str):
        raise InvalidInput(f"{field}.identity{side}", f"is {identity!r}, not a name")
    # Normalised, so that `a/../b.jpg` and `b.jpg` are one image.
    source = Path(os.path.normpath(images.folder / name))
    return builder.image(source, identity, images.croppings.get(source))
