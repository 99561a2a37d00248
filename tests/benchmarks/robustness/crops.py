"""Aligned crops without a face, and dark and washed-out pictures (`make bench-crops`).

The crops are of rendered people, and of ``../shared/faces`` where it exists.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.rendering.renderer import render_person
from shared.model.face_check import FaceCheck
from shared.model.image.contrast import stretch_low_contrast
from shared.model.image.detection.detector import FaceDetector
from shared.model.image.detection.yunet import find_detector_model
from shared.model.manifest import read_manifest
from shared.model.sessions.base import Session, split_features
from shared.model.sessions.factory import open_session
from shared.settings import ImageLimits
from tests.benchmarks.robustness.people import Picture
from tests.default_version import export_default
from tests.shared.model.no_face import degraded_kinds, no_face_kinds

_MATERIAL = Path("../shared/faces")
_FIRST_PERSON, _RENDERED = 7_950_000, 140
_BATCH = 64

Change = Callable[[Picture], Picture]
Table = list[list[str]]


def run(_: Path) -> dict[str, Any]:
    """Measure the face check and the treatments of low contrast, and print the tables."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        version = export_default(Path(scratch) / "default")
        session, threshold = open_session(version), read_manifest(version).threshold
        for name, (first, second) in _people().items():
            tables = {
                "no face": _refused(first),
                "contrast": _contrast(session, threshold, first, second),
            }
            for title, table in tables.items():
                sys.stdout.write(f"\n{title}, {len(first)} {name}\n\n{_markdown(table)}")
            figures[name] = {"people": len(first), "tables": tables}
    if (_MATERIAL / "raw").is_dir() and (model := find_detector_model(ImageLimits())):
        table = _missed(FaceDetector(model))
        sys.stdout.write(f"\nphotographs without a detected face\n\n{_markdown(table)}")
        figures["missed photographs"] = table
    return figures


def _people() -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Give two aligned crops of each person: two arrays uint8 [N, 112, 112, 3]."""
    seeds = range(_FIRST_PERSON, _FIRST_PERSON + _RENDERED)
    first, second = ([render_person(seed, image) for seed in seeds] for image in range(2))
    people = {"rendered people": (np.stack(first), np.stack(second))}
    folders = sorted((_MATERIAL / "lfw").glob("*"))
    if folders:
        files = [sorted(folder.glob("*.jpg")) for folder in folders]
        ends = [(_read(each[0]), _read(each[-1])) for each in files]
        first, second = zip(*ends, strict=True)
        people["people of LFW"] = (np.stack(first), np.stack(second))
    return people


def _read(file: Path) -> Picture:
    return np.asarray(cv2.imread(str(file)), np.uint8)


def _refused(faces: NDArray[np.uint8]) -> Table:
    check = FaceCheck()
    kinds = {"faces as they are": faces}
    kinds |= {f"faces, {name}": crops for name, crops in degraded_kinds(faces).items()}
    kinds |= {f"no face: {name}": crops for name, crops in no_face_kinds(faces).items()}
    return [
        ["crops", "number", "refused"],
        *(
            [name, str(len(crops)), f"{1 - check.shows_face(crops).mean():.1%}"]
            for name, crops in kinds.items()
        ),
    ]


def _changes() -> dict[str, Change]:
    rng = np.random.default_rng(0)

    def change(gain: float, offset: float, noise: float) -> Change:
        def changed(picture: Picture) -> Picture:
            values = picture * gain + offset + rng.normal(0, noise, picture.shape)
            return np.asarray(values.clip(0, 255), np.uint8)

        return changed

    return {
        "as they are": lambda picture: picture,
        "x 0.3, noise 2": change(0.3, 0, 2),
        "x 0.2, noise 3": change(0.2, 0, 3),
        "x 0.1, noise 3": change(0.1, 0, 3),
        "x 0.1, no noise": change(0.1, 0, 0),
        "x 0.05, noise 1": change(0.05, 0, 1),
        "washed out, x 0.3 + 150": change(0.3, 150, 1),
        "flat, x 0.2 + 100": change(0.2, 100, 1),
    }


def _clahe(picture: Picture) -> Picture:
    lab = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB)
    lightness = np.ascontiguousarray(lab[..., 0])
    lab[..., 0] = cv2.createCLAHE(2.0, (4, 4)).apply(lightness)
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR), np.uint8)


TREATMENTS: dict[str, Change] = {
    "untreated": lambda picture: picture,
    "CLAHE": _clahe,
    "stretched (ours)": stretch_low_contrast,
}


def _contrast(
    session: Session, threshold: float, first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> Table:
    """Give the false rejections and acceptances, and the cosine to the unchanged crop."""
    unchanged, others = _embed(session, first), _embed(session, second)
    table = [["crops", *TREATMENTS]]
    for name, change in _changes().items():
        changed = [change(crop) for crop in first]
        row = [name]
        for treat in TREATMENTS.values():
            found = _embed(session, np.stack([treat(crop) for crop in changed]))
            rejected = (np.vecdot(found, others) < threshold).mean()
            accepted = (np.vecdot(found, np.roll(others, 1, axis=0)) >= threshold).mean()
            cosine = np.vecdot(found, unchanged).mean()
            row.append(f"FNMR {rejected:.1%}, FMR {accepted:.1%}, cosine {cosine:.3f}")
        table.append(row)
    return table


def _embed(session: Session, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    starts = range(0, len(crops), _BATCH)
    return np.concatenate(
        [split_features(session.run(crops[start : start + _BATCH]))[0] for start in starts]
    )


def _missed(detector: FaceDetector) -> Table:
    photographs = [_read(file) for file in sorted((_MATERIAL / "raw").glob("*.jpg"))]
    table = [["photographs", *TREATMENTS]]
    for name, change in _changes().items():
        changed = [change(photograph) for photograph in photographs]
        missed = [
            sum(not detector.find(treat(picture)).certain for picture in changed)
            for treat in TREATMENTS.values()
        ]
        table.append([name, *(f"{count} of {len(photographs)}" for count in missed)])
    return table


def _markdown(table: Table) -> str:
    header, *rows = table
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
