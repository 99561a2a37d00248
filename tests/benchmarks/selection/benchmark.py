"""Number of labels that a strategy saves against random selection (`make bench-selection`).

The parent embeds a pool of people's images. Each strategy chooses pairs with the functions of the
feedback service. The pairs get their true labels, a learner is trained on them, and the result is
measured on other people. Pairs are chosen 100 at a time; the labels so far update the match
probability for the next choice. The pool keeps the parent's embeddings to the end, except in the
rows named "retrained": there a new version embeds the pool after every 200 labels, and the
disagreement between both versions can be used.

"random" draws an image uniformly, and one of its 20 nearest neighbours uniformly: the pairs that
a person would look at who searches for duplicates without a strategy. "uniform" draws both images
uniformly, which gives almost no genuine pairs.

There are two learners: a linear map behind the frozen network (see `linear_learner`), which takes
seconds and is used to compare all strategies, and the product's training, which takes minutes.
Images of real people are degraded, as in `make bench-learning`, so that there is something to
learn.

`make bench-selection FACES=DIR CHECKPOINT=FILE` uses other faces, aligned crops in a folder per
identity, and another network. Finished rows are stored in ``selection.rows.json``.
``LEARNER=linear``, ``PEOPLE=real`` and ``STRATEGY="random default"`` measure and report only these
rows, and ``ROWS=N`` measures at most N new ones. ``SEEDS="3 4 5"`` uses other splits and draws, to
choose a default without the people of the report.
"""

import json
import os
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
    PairRows,
    People,
    Split,
    real_people,
    rendered_people,
)
from tests.benchmarks.learning.figures import figures
from tests.benchmarks.learning.product import make_parent, train
from tests.benchmarks.progress import log
from tests.benchmarks.selection.choice import (
    EmbeddedPool,
    choose_in_rounds,
    draw_uniform,
    shares_of,
)
from tests.benchmarks.selection.linear_learner import learn_map
from tests.benchmarks.selection.rows import SEEDS, SelectionResults, SelectionRow, rows
from tests.benchmarks.selection.summary import summarise

_MATERIAL_FACES = Path("../shared/faces/lfw")
# A choice of fewer labels is the start of this choice.
_MOST_LABELS = 1000

Features = NDArray[np.float32]


def run(out: Path) -> dict[str, Any]:
    """Measure the rows without a stored result.

    Args:
        out: Folder for the stored rows.

    Returns:
        All finished rows, the learning curves, and the comparison with random selection.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or cpu_threads()))
    # A trained map has denormal gradients, which are slow to compute with.
    torch.set_flush_denormal(True)
    faces = Path(os.environ.get("FACES") or _MATERIAL_FACES)
    checkpoint = Path(os.environ.get("CHECKPOINT") or DEFAULT_CHECKPOINT)
    people = (os.environ.get("PEOPLE") or "rendered real").split()
    if not faces.is_dir():
        log(f"{faces} does not exist; skipping real faces; name a folder with FACES=DIR")
        people = [kind for kind in people if kind != "real"]
    out.mkdir(parents=True, exist_ok=True)
    results = SelectionResults(out / "selection.rows.json", f"{faces.name} {checkpoint.name}")
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
            found = results.get(row, pairs)
            if found is None and allowed > 0:
                allowed -= 1
                start = time.monotonic()
                found = bench.measure(row, pairs)
                found |= {"seconds": round(time.monotonic() - start)}
                results.put(row, pairs, found)
            if found is not None:
                finished[row] = found
            log(f"{place}/{len(todo)} {row}: {json.dumps(found)}")
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
        """The parent's features of all people."""
        network = load_checkpoint(self._parent / WEIGHTS_FILE).network
        return self._embed(network, self._split(people, seed))

    def _embed(self, network: IResNet, split: Split) -> dict[str, Features]:
        order = self._manifest.channel_order
        return {
            part: compute_features(network, order, _crops(people)) for part, people in split.items()
        }

    def choose(self, row: SelectionRow) -> NDArray[np.int64]:
        """Choose pairs of the pool's images: int64 [P, 2]."""
        if row.strategy == "parent":
            return np.zeros((0, 2), np.int64)
        chosen = self._choose(row.people, row.split, row.strategy, row.seed, row.retrained)
        return chosen[: row.labels]

    @cache  # noqa: B019 - one object a process
    def _choose(
        self, people: str, split: int, strategy: str, seed: int, retrained: bool
    ) -> NDArray[np.int64]:
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

    def _pool(self, features: Features) -> EmbeddedPool:
        manifest = self._manifest
        embeddings, magnitudes = split_features(features)
        calibration = Calibration(manifest.threshold, manifest.probability)
        return EmbeddedPool(embeddings, manifest.quality(magnitudes), calibration)

    def _retrain(self, people: str, split: int, pairs: NDArray[np.int64]) -> EmbeddedPool:
        features = self._features(people, split)["training"]
        return self._pool(features @ learn_map(features, self._label(people, split, pairs)).T)

    def _label(self, people: str, split: int, pairs: NDArray[np.int64]) -> PairRows:
        persons = self._split(people, split)["training"].persons
        return PairRows(pairs, persons[pairs[:, 0]] == persons[pairs[:, 1]])

    def measure(self, row: SelectionRow, pairs: NDArray[np.int64]) -> dict[str, Any]:
        split = self._split(row.people, row.split)
        labelled = self._label(row.people, row.split, pairs)
        features, refused = (
            self._map(row, labelled) if row.learner == "linear" else self._train(row, labelled)
        )
        measured = figures(
            (features["calibration"], split["calibration"].persons),
            (features["test"], split["test"].persons),
            self._features(row.people, row.split)["test"],
        )
        genuine = pairs[labelled.same].ravel()
        return asdict(measured) | {
            "labelled": len(pairs),
            "genuine": int(labelled.same.sum()),
            "genuine_people": len(np.unique(split["training"].persons[genuine])),
            "refused": refused,
        }

    def _map(self, row: SelectionRow, labelled: PairRows) -> tuple[dict[str, Features], str]:
        features = self._features(row.people, row.split)
        learned = learn_map(features["training"], labelled)
        return {part: own @ learned.T for part, own in features.items()}, ""

    def _train(self, row: SelectionRow, labelled: PairRows) -> tuple[dict[str, Features], str]:
        """Give the trained network's features; the parent's and the error if the labels failed."""
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
                report=lambda message: log(f"{row}: {message}"),
            )
        except MagFaceError as error:
            return self._features(row.people, row.split), str(error)
        network = load_checkpoint(outcome.folder / WEIGHTS_FILE).network
        unseen = {part: people for part, people in split.items() if part != "training"}
        return self._embed(network, unseen), ""


def _crops(people: People) -> Any:
    """The images in the pool: degraded ones of real people."""
    return people.views.get("degraded", next(iter(people.views.values())))
