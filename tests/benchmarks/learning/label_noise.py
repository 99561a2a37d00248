"""Precision and recall of the search for wrong labels (`make bench-label-noise`).

Finished rows are stored in ``label-noise.rows.json``. `FACES=DIR` names the real faces.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.trainer.data.label_noise import assess_labels
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.data.splits import decode_feedback, split_reference
from services.trainer.training.camera import Camera
from services.trainer.training.features import compute_features
from services.trainer.training.finetuner import FacesWithParent
from services.trainer.training.recipes import RecipeFactory
from services.trainer.training.replay import ReplayedFaces
from services.trainer.training.spec import TrainingSpec
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits
from tests.benchmarks.learning.benchmark import MATERIAL_FACES
from tests.benchmarks.learning.faces import PairRows, draw_pairs, real_people, rendered_people
from tests.benchmarks.learning.product import ANNOTATORS, ArraySnapshot, make_parent
from tests.benchmarks.learning.rows import LearningResults
from tests.benchmarks.learning.table import markdown
from tests.benchmarks.progress import log

_PAIRS = 600
_SEED = 6
_LIAR = "one liar of five"


@dataclass(frozen=True)
class NoiseRow:
    """One search.

    Attributes:
        people: "real, degraded", "real, clean" or "rendered".
        wrong: Share of wrong labels, or `_LIAR`.
    """

    people: str
    wrong: float | str

    def __str__(self) -> str:
        return f"{self.people} people, wrong: {self.wrong}"


# The most informative rows come first, so that an interrupted run is still useful.
ROWS = tuple(
    NoiseRow(people, wrong)
    for wrong in (0.2, 0.0, _LIAR, 0.05, 0.4)
    for people in ("real, degraded", "rendered", "real, clean")
)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        wrong: Number of wrong labels.
        suspected: Labels that the report suspects.
        right_suspected: Right labels among these: false alarms.
        doubted: Right labels that the parent decides wrongly.
        doubted_suspected: False alarms among these.
        left_out: Whether the suspected labels are left out of the training.
    """

    wrong: int
    suspected: int
    right_suspected: int
    doubted: int
    doubted_suspected: int
    left_out: bool


def run(out: Path) -> dict[str, Any]:
    """Measure the rows without a stored result, and print the table."""
    torch.set_num_threads(cpu_threads())
    faces = Path(os.environ.get("FACES") or MATERIAL_FACES)
    out.mkdir(parents=True, exist_ok=True)
    results = LearningResults(out / "label-noise.rows.json", faces.name if faces.is_dir() else "")
    rows = [row for row in ROWS if faces.is_dir() or row.people == "rendered"]
    with tempfile.TemporaryDirectory() as scratch:
        parent = make_parent(DEFAULT_CHECKPOINT, Path(scratch) / "parent")
        for row in rows:
            if results.get(str(row)) is None:
                found = _search(row, parent, faces, Path(scratch), partial(_log_under, str(row)))
                results.put(str(row), asdict(found))
            log(f"{row}: {results.get(str(row))}")
    found_rows = {row: Found(**stored) for row in rows if (stored := results.get(str(row)))}
    table = make_table(found_rows)
    sys.stdout.write(table)
    return {
        "pairs": _PAIRS,
        "rows": [asdict(row) | asdict(found) for row, found in found_rows.items()],
        "table": table,
    }


def _log_under(title: str, line: str) -> None:
    log(f"{title}: {line}")


def _search(
    row: NoiseRow, parent: Path, faces: Path, scratch: Path, report: Callable[[str], None]
) -> Found:
    kind, _, view = row.people.partition(", ")
    split = rendered_people() if kind == "rendered" else real_people(faces, _SEED)
    people, others = split["training"], split["calibration"]
    crops = people.views[view or kind]
    right = draw_pairs(people.persons, _PAIRS, _SEED)
    labelled = spoil_labels(right, row.wrong)
    snapshot = ArraySnapshot(crops, labelled)
    workdir = Path(tempfile.mkdtemp(dir=scratch))
    decoded = decode_feedback(
        snapshot, FaceReader(ImageLimits()), workdir / "crops.npy", lambda _: None
    )
    manifest = read_manifest(parent)
    network = load_checkpoint(parent / WEIGHTS_FILE).network
    embedded = compute_features(network, manifest.channel_order, decoded.crops)
    reference = split_reference(
        ReferenceFaces(next(iter(others.views.values())), others.persons), _SEED
    )
    replayed = None
    if kind != "rendered":
        good = reference.crops[reference.replayed]
        replayed = ReplayedFaces(good, Camera.learn(decoded.crops, good, _SEED))
    spec = TrainingSpec(job_id="label-noise", parent_version=parent.name, seed=_SEED)
    recipes = RecipeFactory(spec, manifest, FacesWithParent(decoded.crops, embedded), replayed, 72)
    report("searching")
    assessment = assess_labels(
        decoded.images,
        decoded.pairs,
        embedded,
        recipes.half_trainer(network, workdir, lambda _: None, 0.0, 1.0),
        burst=decoded.burst,
        threshold=manifest.threshold,
    )
    suspected = {(one.sha256_a, one.sha256_b) for one in assessment.report.suspects}
    truth = list(ArraySnapshot(crops, right).pairs())
    unit = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    place = {sha256: index for index, sha256 in enumerate(decoded.images)}
    is_wrong, is_suspected, is_doubted = [], [], []
    for true, given in zip(truth, snapshot.pairs(), strict=True):
        similarity = unit[place[true.sha256_a]] @ unit[place[true.sha256_b]]
        is_wrong.append(true.same != given.same)
        is_suspected.append((given.sha256_a, given.sha256_b) in suspected)
        is_doubted.append((similarity >= manifest.threshold) != given.same)
    wrong, alarm, doubted = (np.array(each) for each in (is_wrong, is_suspected, is_doubted))
    return Found(
        wrong=int(wrong.sum()),
        suspected=int(alarm.sum()),
        right_suspected=int((alarm & ~wrong).sum()),
        doubted=int((doubted & ~wrong).sum()),
        doubted_suspected=int((doubted & alarm & ~wrong).sum()),
        left_out=assessment.report.treated,
    )


def spoil_labels(pairs: PairRows, wrong: float | str) -> PairRows:
    """Turn a share of the labels at random, or all labels of one annotator."""
    if wrong == _LIAR:
        liar = np.arange(len(pairs.same)) % ANNOTATORS == 0
        return replace(pairs, same=pairs.same ^ liar)
    return pairs.with_wrong_labels(float(wrong), _SEED)


def make_table(found: dict[NoiseRow, Found]) -> str:
    """Make a Markdown table of precision, recall and false alarms."""
    head = (
        "people",
        "wrong labels",
        "suspected",
        "precision",
        "recall",
        "right labels suspected",
        "of right labels that the parent decides wrongly",
        "left out of the training",
    )
    lines = [
        (
            row.people,
            row.wrong if isinstance(row.wrong, str) else f"{row.wrong:.0%} ({one.wrong})",
            str(one.suspected),
            _share(one.suspected - one.right_suspected, one.suspected),
            _share(one.suspected - one.right_suspected, one.wrong),
            _share(one.right_suspected, _PAIRS - one.wrong),
            _share(one.doubted_suspected, one.doubted),
            "yes" if one.left_out else "no",
        )
        for row, one in sorted(found.items(), key=lambda each: (each[0].people, str(each[0].wrong)))
    ]
    return markdown(head, lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%} ({part} of {whole})" if whole else "-"
