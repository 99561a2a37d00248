"""Wrong decisions of a model, worst first, and their export as image folders."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.datasets.pairs import PairSet
from shared.evaluation.embed import CropReader
from shared.evaluation.measure import Measurement

ErrorKind = Literal["false_positive", "false_negative"]
_FOLDERS: dict[ErrorKind, str] = {
    "false_positive": "false_positives",
    "false_negative": "false_negatives",
}


@dataclass(frozen=True)
class PairError:
    """One pair that is decided wrongly.

    Attributes:
        pair: Index of the pair in the set.
        kind: A false positive is an accepted impostor pair.
        similarity: Cosine similarity.
        images: Indices of its two images in the set.
        magnitudes: Magnitudes of the two faces.
    """

    pair: int
    kind: ErrorKind
    similarity: float
    images: tuple[int, int]
    magnitudes: tuple[float, float]


def find_errors(measured: Measurement, pair_set: PairSet) -> list[PairError]:
    """Return all wrong decisions, those farthest from the threshold first."""
    scores, threshold = measured.scores, measured.evaluation.threshold
    magnitudes = measured.embedded.magnitudes
    wrong = np.flatnonzero(scores.decisions(threshold) != scores.genuine)
    worst_first = wrong[np.argsort(-np.abs(scores.similarity[wrong] - threshold), kind="stable")]
    errors = []
    for pair in worst_first.tolist():
        a, b = pair_set.pairs[pair].tolist()
        errors.append(
            PairError(
                pair=pair,
                kind="false_negative" if scores.genuine[pair] else "false_positive",
                similarity=float(scores.similarity[pair]),
                images=(a, b),
                magnitudes=(float(magnitudes[a]), float(magnitudes[b])),
            )
        )
    return errors


def write_error_folders(
    folder: Path, pair_set: PairSet, measured: Measurement, crops: CropReader, most: int = 200
) -> None:
    """Write the worst errors of each kind to a folder; an earlier export is replaced.

    ``false_positives/pair_001_sim0.327/`` and so on hold the two original images, a
    ``comparison.png`` of the crops, and ``info.txt``. ``error_summary.json`` lists all errors,
    including those without a folder.

    Args:
        folder: Created if it does not exist.
        pair_set: The pair set of the measurement.
        measured: The measurement whose errors are written.
        crops: Reads the crops that the network got.
        most: Most folders of each kind.
    """
    errors, threshold = find_errors(measured, pair_set), measured.evaluation.threshold
    folders: dict[int, str] = {}
    for kind, name in _FOLDERS.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        chosen = [error for error in errors if error.kind == kind][:most]
        for number, error in enumerate(chosen, start=1):
            path = f"{name}/pair_{number:03d}_sim{error.similarity:.3f}"
            folders[error.pair] = path
            _write_error(folder / path, error, pair_set, threshold, crops)
    summary = {
        "model": measured.name,
        "threshold": threshold,
        "pairs": len(pair_set),
        **{name: sum(e.kind == kind for e in errors) for kind, name in _FOLDERS.items()},
        "errors": [
            {
                "pair": error.pair,
                "kind": error.kind,
                "similarity": error.similarity,
                "magnitudes": error.magnitudes,
                "images": [pair_set.name(image) for image in error.images],
                "folder": folders.get(error.pair),
            }
            for error in errors
        ],
    }
    (folder / "error_summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _write_error(
    folder: Path, error: PairError, pair_set: PairSet, threshold: float, crops: CropReader
) -> None:
    folder.mkdir()
    for number, image in enumerate(error.images, start=1):
        (folder / f"img{number}_{_file_name(pair_set, image)}").write_bytes(pair_set.data(image))
    cv2.imwrite(str(folder / "comparison.png"), side_by_side(error, threshold, crops))
    actual = "same person" if error.kind == "false_negative" else "different people"
    decided = "different people" if error.kind == "false_negative" else "same person"
    lines = [
        f"Similarity: {error.similarity:.4f} (threshold {threshold:.4f})",
        f"Actual: {actual}",
        f"Decided: {decided}",
        *(
            f"Image {number}: {pair_set.name(image)}, magnitude {magnitude:.2f}"
            for number, (image, magnitude) in enumerate(
                zip(error.images, error.magnitudes, strict=True), start=1
            )
        ),
    ]
    (folder / "info.txt").write_text("\n".join(lines) + "\n")


def side_by_side(error: PairError, threshold: float, crops: CropReader) -> NDArray[np.uint8]:
    """Draw both crops, enlarged, above a caption with the error; uint8 HxWx3 BGR."""
    faces = [
        cv2.resize(crops(image), (224, 224), interpolation=cv2.INTER_CUBIC)
        for image in error.images
    ]
    caption = np.full((40, 456, 3), 255, np.uint8)
    text = (
        f"{error.kind.replace('_', ' ')}: {error.similarity:.3f} (threshold {threshold:.3f}), "
        f"magnitudes {error.magnitudes[0]:.1f}, {error.magnitudes[1]:.1f}"
    )
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(caption, text, (6, 25), font, 0.38, (40, 40, 40), 1, cv2.LINE_AA)
    gap = np.full((224, 8, 3), 255, np.uint8)
    return np.vstack([np.hstack([faces[0], gap, faces[1]]), caption])


def _file_name(pair_set: PairSet, image: int) -> str:
    source = pair_set.images[image]
    if isinstance(source, bytes):
        return pair_set.name(image) + (".png" if source.startswith(b"\x89PNG") else ".jpg")
    return f"{source.parent.name}_{source.name}"
