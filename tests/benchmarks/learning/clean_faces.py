"""What a training on clean real faces gains or loses, by the reference faces that it has.

``python -m tests.benchmarks.learning.clean_faces FACES --checkpoint FILE --seeds 0 1 2``: one JSON
object per training. "none" is a service without a reference folder, "folder" one with 80 people.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.training.features import compute_features
from shared.datasets.folder import read_identities, split_identities
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits
from tests.benchmarks.learning.faces import PairRows, Split, draw_pairs, read_people
from tests.benchmarks.learning.figures import figures
from tests.benchmarks.learning.product import make_parent, train
from tests.benchmarks.progress import log

_SIZES = {"training": 190, "reference": 80, "calibration": 40, "test": 110}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--reference", nargs="+", default=["none", "folder"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pairs", type=int, default=600)
    given = parser.parse_args(arguments)
    torch.set_num_threads(cpu_threads())
    with tempfile.TemporaryDirectory() as scratch:
        parent = make_parent(given.checkpoint, Path(scratch) / "parent")
        for seed in given.seeds:
            split = _split(given.faces, seed)
            for reference in given.reference:
                pairs = draw_pairs(split["training"].persons, given.pairs, seed)
                measured = _measure(parent, split, reference, pairs, seed)
                row = {"reference": reference, "seed": seed, "pairs": given.pairs, **measured}
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()


def _split(folder: Path, seed: int) -> Split:
    identities = {k: v for k, v in read_identities(folder).images.items() if len(v) > 1}
    reader = FaceReader(ImageLimits())
    return {
        name: read_people(folder, {person: identities[person] for person in persons}, reader)
        for name, persons in split_identities(identities, _SIZES, seed).items()
    }


def _measure(
    parent: Path, split: Split, reference: str, pairs: PairRows, seed: int
) -> dict[str, Any]:
    training, kept = split["training"], split["reference"]
    faces = None
    if reference == "folder":
        faces = ReferenceFaces(kept.views["clean"], kept.persons)
    outcome = train(
        parent,
        training.views["clean"],
        pairs,
        faces,
        workdir=Path(tempfile.mkdtemp(dir=parent.parent)),
        seed=seed,
        report=partial(_log_under, f"{reference} {seed}"),
    )
    failed = [check.detail for check in outcome.gate.checks if not check.passed]
    views = ("clean", "degraded")
    return {
        "gain": {view: _gain(parent, outcome.folder, split, view) for view in views},
        "note": outcome.manifest.reference_note,
        "passed": outcome.gate.passed,
        "failed": failed,
    }


def _gain(parent: Path, child: Path, split: Split, view: str) -> dict[str, float]:
    """Figures of the candidate minus those of its parent on the test people."""
    order = read_manifest(parent).channel_order
    calibration, test = split["calibration"], split["test"]
    measured = []
    for folder in (parent, child):
        embed = partial(compute_features, load_checkpoint(folder / WEIGHTS_FILE).network, order)
        features = embed(test.views[view])
        measured.append(
            asdict(
                figures(
                    (embed(calibration.views[view]), calibration.persons),
                    (features, test.persons),
                    features,
                )
            )
        )
    old, new = measured
    return {name: round(new[name] - old[name], 4) for name in ("accuracy", "tar")} | {
        "parent_accuracy": round(old["accuracy"], 4)
    }


def _log_under(title: str, line: str) -> None:
    log(f"{title}: {line}")


if __name__ == "__main__":
    main()
