"""How many labels a strategy saves against asking at random (`make bench-selection`).

A pool of people's images is embedded by the parent; each strategy chooses its pairs with the
service's own functions, they are labelled by the truth, a learner learns from them, and what
it made is measured on people who are in neither. A hundred pairs are chosen at a time; the
labels so far tell the next choice how likely links are genuine. The network stays the parent
until all are there, or, in the rows that are called retrained, a new version takes over the
pool after every 200 labels, and can disagree with the one before it.

"random" is an image drawn uniformly with one of its twenty nearest neighbours, drawn
uniformly: what a person would be asked about who looks for doubles without a strategy.
"uniform" draws both images uniformly, which gives nearly no genuine pair.

The learners are a linear map behind the frozen network (see `linear_learner`), which takes
seconds and so compares all strategies, and the product's training, which takes minutes. Real
people's images are degraded as a bad camera's, as in `make bench-learning`: there the parent has
something to learn.

`make bench-selection FACES=DIR CHECKPOINT=FILE` measures on other faces, a folder per identity
of aligned crops, and another network. Rows are kept in ``selection.rows.json`` as they finish.
``LEARNER=linear``, ``PEOPLE=real`` and ``STRATEGY="random default"`` measure only these, and
``ROWS=N`` no more than N new rows; what was kept of the others is not reported then.
``SEEDS="3 4 5"`` divides and draws anew: to choose a default on what is not reported.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.feedback.pool.calibration import Calibration
from services.feedback.selection.arrays import IndexArray
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.training.features import compute_features
from shared.errors import MagFaceError
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.network.iresnet import IResNet
from shared.model.sessions.base import split_features
from shared.model.sessions.cpu import cpu_threads
from tests.benchmarks.learning.faces import (
    LabelledPairs,
    People,
    Split,
    real_people,
    rendered_people,
)
from tests.benchmarks.learning.figures import figures
from tests.benchmarks.learning.product import make_parent, train
from tests.benchmarks.selection.choice import PoolLook, choose_in_rounds, draw_uniform, shares_of
from tests.benchmarks.selection.linear_learner import learn_map
from tests.benchmarks.selection.rows import SEEDS, KeptSelections, SelectionRow, rows
from tests.benchmarks.selection.summary import summarise

_MATERIAL_FACES = Path("../shared/faces/lfw")
# A smaller choice is the first part of a larger one.
_MOST_LABELS = 1000

Features = NDArray[np.float32]


def run(out: Path) -> dict[str, Any]:
    """Measure what is not yet measured.

    Args:
        out: Folder for the rows that are kept.

    Returns:
        Every row that is finished, the learning curves and the bars.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or cpu_threads()))
    # What a map has learned leaves gradients so small that processors slow down over them.
    torch.set_flush_denormal(True)
    faces = Path(os.environ.get("FACES") or _MATERIAL_FACES)
    checkpoint = Path(os.environ.get("CHECKPOINT") or DEFAULT_CHECKPOINT)
    people = (os.environ.get("PEOPLE") or "rendered real").split()
    if not faces.is_dir():
        _say(f"{faces} is not there: real faces are skipped; name a folder with FACES=DIR")
        people = [kind for kind in people if kind != "real"]
    out.mkdir(parents=True, exist_ok=True)
    kept = KeptSelections(out / "selection.rows.json", f"{faces.name} {checkpoint.name}")
    learners = (os.environ.get("LEARNER") or "linear training").split()
    seeds = [int(seed) for seed in os.environ.get("SEEDS", "").split()] or SEEDS
    strategies = (os.environ.get("STRATEGY") or "").split()
    todo = [
        row for row in rows(learners, people, seeds) if not strategies or row.strategy in strategies
    ]
    allowed = int(os.environ.get("ROWS") or len(todo))
    finished: dict[SelectionRow, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(checkpoint, faces, Path(scratch))
        for place, row in enumerate(todo, 1):
            pairs = bench.choose(row)
            found = kept.get(row, pairs)
            if found is None and allowed > 0:
                allowed -= 1
                start = time.monotonic()
                found = bench.measure(row, pairs)
                found |= {"seconds": round(time.monotonic() - start)}
                kept.put(row, pairs, found)
            if found is not None:
                finished[row] = found
            _say(f"{place}/{len(todo)} {row}: {json.dumps(found)}")
    return {
        "faces": faces.name if "real" in people else None,
        "checkpoint": checkpoint.name,
        **summarise(finished),
        "rows": [asdict(row) | found for row, found in finished.items()],
    }


class _Bench:
    def __init__(self, checkpoint: Path, faces: Path, scratch: Path) -> None:
        self._parent = make_parent(checkpoint, scratch / "parent")
        self._manifest = read_manifest(self._parent)
        self._faces = faces
        self._scratch = scratch

    @cache  # noqa: B019 - one object a process
    def _split(self, people: str, seed: int) -> Split:
        return rendered_people() if people == "rendered" else real_people(self._faces, seed)

    @cache  # noqa: B019 - one object a process
    def _features(self, people: str, seed: int) -> dict[str, Features]:
        """The parent's, of everybody."""
        network = load_checkpoint(self._parent / WEIGHTS_FILE).network
        return self._look(network, self._split(people, seed))

    def _look(self, network: IResNet, split: Split) -> dict[str, Features]:
        order = self._manifest.channel_order
        return {
            part: compute_features(network, order, _crops(people)) for part, people in split.items()
        }

    def choose(self, row: SelectionRow) -> IndexArray:
        """Pairs of the pool's images: int64 [P, 2]."""
        if row.strategy == "parent":
            return np.zeros((0, 2), np.int64)
        all_of_them = self._choose(row.people, row.split, row.strategy, row.seed, row.retrained)
        return all_of_them[: row.labels]

    @cache  # noqa: B019 - one object a process
    def _choose(
        self, people: str, split: int, strategy: str, seed: int, retrained: bool
    ) -> IndexArray:
        persons = self._split(people, split)["training"].persons
        rng = np.random.default_rng(seed)
        if strategy == "uniform":
            return rng.permutation(draw_uniform(len(persons), _MOST_LABELS, rng))
        return choose_in_rounds(
            self._pool(self._features(people, split)["training"]),
            shares_of(strategy),
            _MOST_LABELS,
            persons=persons,
            rng=rng,
            retrain=partial(self._retrain, people, split) if retrained else None,
        )

    def _pool(self, features: Features) -> PoolLook:
        manifest = self._manifest
        embeddings, magnitudes = split_features(features)
        calibration = Calibration(manifest.threshold, manifest.probability)
        return PoolLook(embeddings, manifest.quality(magnitudes), calibration)

    def _retrain(self, people: str, split: int, pairs: IndexArray) -> PoolLook:
        features = self._features(people, split)["training"]
        return self._pool(features @ learn_map(features, self._label(people, split, pairs)).T)

    def _label(self, people: str, split: int, pairs: IndexArray) -> LabelledPairs:
        persons = self._split(people, split)["training"].persons
        return LabelledPairs(pairs, persons[pairs[:, 0]] == persons[pairs[:, 1]])

    def measure(self, row: SelectionRow, pairs: IndexArray) -> dict[str, Any]:
        split = self._split(row.people, row.split)
        labelled = self._label(row.people, row.split, pairs)
        looks, refused = (
            self._map(row, labelled) if row.learner == "linear" else self._train(row, labelled)
        )
        found = figures(
            (looks["calibration"], split["calibration"].persons),
            (looks["test"], split["test"].persons),
            self._features(row.people, row.split)["test"],
        )
        genuine = pairs[labelled.same].ravel()
        return asdict(found) | {
            "labelled": len(pairs),
            "genuine": int(labelled.same.sum()),
            "genuine_people": len(np.unique(split["training"].persons[genuine])),
            "refused": refused,
        }

    def _map(self, row: SelectionRow, labelled: LabelledPairs) -> tuple[dict[str, Features], str]:
        features = self._features(row.people, row.split)
        learned = learn_map(features["training"], labelled)
        return {part: own @ learned.T for part, own in features.items()}, ""

    def _train(self, row: SelectionRow, labelled: LabelledPairs) -> tuple[dict[str, Features], str]:
        """What the trained network sees; the parent, and why, where the labels are refused."""
        split = self._split(row.people, row.split)
        calibration = split["calibration"]
        reference = ReferenceFaces(next(iter(calibration.views.values())), calibration.persons)
        try:
            outcome = train(
                self._parent,
                _crops(split["training"]),
                labelled,
                reference,
                workdir=Path(tempfile.mkdtemp(dir=self._scratch)),
                seed=row.seed,
                tick=lambda what: _say(f"{row}: {what}"),
            )
        except MagFaceError as error:
            return self._features(row.people, row.split), str(error)
        network = load_checkpoint(outcome.folder / WEIGHTS_FILE).network
        unseen = {part: people for part, people in split.items() if part != "training"}
        return self._look(network, unseen), ""


def _crops(people: People) -> Any:
    """As the camera of the pool sees them: degraded where there are real people."""
    return people.views.get("degraded", next(iter(people.views.values())))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
