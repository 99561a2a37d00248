"""How many labels a strategy saves against asking at random (`make bench-selection`).

A pool of people's images is embedded by the parent; each strategy chooses its pairs with the
service's own functions, they are labelled by the truth, the product's training learns from
them, and what it made is measured on people who are in neither. A hundred pairs are chosen at a
time; the labels so far tell the next choice how likely links are genuine, while the network stays
the parent until all are there.

"random" is an image drawn uniformly with one of its twenty nearest neighbours, drawn
uniformly: what a person would be asked about who looks for doubles without a strategy.
"uniform" draws both images uniformly, which gives nearly no genuine pair.

`make bench-selection FACES=DIR CHECKPOINT=FILE` measures on other faces, a folder per identity
of aligned crops, and another network. Rows are kept in ``selection.rows.json`` as they finish;
``ROWS=N`` stops after that many new ones. ``LEARNER=linear`` leaves the training out and learns in
seconds (see `selection_linear`), which compares the strategies where trainings take too long.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.feedback import selection
from services.feedback.belief import Calibration, first_belief
from services.feedback.strategies import MIX, Strategy
from services.trainer.features import compute_features
from services.trainer.training import ReferenceFaces
from shared.errors import MagFaceError
from shared.model.checkpoint import load_checkpoint
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.iresnet import IResNet
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.session import cpu_threads, split_features
from tests.benchmarks.learning_faces import (
    LabelledPairs,
    People,
    Split,
    real_people,
    rendered_people,
)
from tests.benchmarks.learning_figures import figures
from tests.benchmarks.learning_product import make_parent, train
from tests.benchmarks.selection_linear import learn_map
from tests.benchmarks.selection_rows import KeptSelections, SelectionRow, rows, summarise

_MATERIAL_FACES = Path("../shared/faces/lfw")
_NEIGHBOURS = 20
# Of every mix that is handed out, so that estimates stay honest.
_RANDOM_SHARE = 0.1
_ROUND = 100

Features = NDArray[np.float32]


def run(out: Path) -> dict[str, Any]:
    """Measure what is not yet measured.

    Args:
        out: Folder for the rows that are kept.

    Returns:
        Every row that is finished, the learning curves and the bar.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or cpu_threads()))
    faces = Path(os.environ.get("FACES") or _MATERIAL_FACES)
    checkpoint = Path(os.environ.get("CHECKPOINT") or DEFAULT_CHECKPOINT)
    people = ("rendered", "real") if faces.is_dir() else ("rendered",)
    out.mkdir(parents=True, exist_ok=True)
    kept = KeptSelections(out / "selection.rows.json", f"{faces.name} {checkpoint.name}")
    learners = (os.environ.get("LEARNER") or "linear training").split()
    todo = rows(learners, people)
    allowed = int(os.environ.get("ROWS") or len(todo))
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(checkpoint, faces, Path(scratch))
        for place, row in enumerate(todo, 1):
            if kept.get(row) is None and allowed > 0:
                allowed -= 1
                start = time.monotonic()
                measured = bench.measure(row)
                kept.put(row, measured | {"seconds": round(time.monotonic() - start)})
            _say(f"{place}/{len(todo)} {row}: {json.dumps(kept.get(row))}")
    finished = {row: found for row in todo if (found := kept.get(row))}
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

    @cache  # noqa: B019 - one object a process
    def _view(self, people: str, seed: int) -> selection.PoolView:
        features = self._features(people, seed)["training"]
        embeddings, magnitudes = split_features(features)
        return view_of(embeddings, self._manifest.quality(magnitudes))

    def measure(self, row: SelectionRow) -> dict[str, Any]:
        split = self._split(row.people, row.split)
        pool = split["training"]
        pairs = self._choose(row, pool.persons)
        labelled = LabelledPairs(pairs, pool.persons[pairs[:, 0]] == pool.persons[pairs[:, 1]])
        looks, refused = (
            self._map(row, labelled) if row.learner == "linear" else self._train(row, labelled)
        )
        found = figures(
            (looks["calibration"], split["calibration"].persons),
            (looks["test"], split["test"].persons),
            self._features(row.people, row.split)["test"],
        )
        return asdict(found) | {
            "labelled": len(pairs),
            "genuine": int(labelled.same.sum()),
            "genuine_people": len(np.unique(pool.persons[pairs[labelled.same].ravel()])),
            "refused": refused,
        }

    def _choose(self, row: SelectionRow, persons: NDArray[np.int64]) -> selection.Rows:
        view = self._view(row.people, row.split)
        rng = np.random.default_rng(row.seed)
        match row.strategy:
            case "uniform":
                return selection.draw_uniform(len(view.quality), row.labels, rng)
            case "default":
                shares = {one: (1 - _RANDOM_SHARE) * share for one, share in MIX.items()}
                shares[Strategy.RANDOM] = _RANDOM_SHARE
            case strategy:
                shares = {Strategy(strategy): 1.0}
        calibration = Calibration(self._manifest.threshold, self._manifest.probability)
        return choose_in_rounds(view, calibration, shares, row.labels, persons=persons, rng=rng)

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


def view_of(embeddings: NDArray[np.float32], quality: NDArray[np.float32]) -> selection.PoolView:
    """Link every image to its nearest neighbours, as the service does with pgvector.

    Args:
        embeddings: [N, D], of unit length.
        quality: [N], 0..1.
    """
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    near = np.argpartition(-similarity, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
    anchors = np.repeat(np.arange(len(embeddings)), _NEIGHBOURS)
    links = np.column_stack((anchors, near.ravel())).astype(np.int64)
    found = similarity[links[:, 0], links[:, 1]].astype(np.float64)
    density = found.reshape(-1, _NEIGHBOURS).mean(axis=1)
    return selection.PoolView(quality.astype(np.float64), density, links, found)


def choose_in_rounds(
    view: selection.PoolView,
    calibration: Calibration,
    shares: Mapping[Strategy, float],
    count: int,
    *,
    persons: NDArray[np.int64],
    rng: np.random.Generator,
) -> selection.Rows:
    """Choose a hundred at a time, each time with the belief that the labels so far give.

    Args:
        view: The pool.
        calibration: Of the parent.
        shares: Of the strategies.
        count: Labels in all.
        persons: [N], the truth, by which each choice is labelled.
        rng: Draws.
    """
    at_first = belief = first_belief(calibration, view.standout())
    chosen = np.zeros((0, 2), np.int64)
    places = {
        (min(link), max(link)): place for place, link in enumerate(map(tuple, view.links.tolist()))
    }
    while len(chosen) < count:
        known = list(map(tuple, chosen.tolist()))
        more = min(_ROUND, count - len(chosen))
        part = selection.choose_mix(view, belief, shares, more, rng, known=known)
        if len(part) == 0:
            break
        chosen = np.concatenate((chosen, part))
        labelled = np.array([places[pair] for pair in map(tuple, chosen.tolist())])
        belief = at_first.learn(
            view.similarity[labelled],
            view.standout()[labelled],
            persons[chosen[:, 0]] == persons[chosen[:, 1]],
        )
    return chosen


def _crops(people: People) -> Any:
    """As the camera of the pool sees them: degraded where there are real people."""
    return people.views.get("degraded", next(iter(people.views.values())))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
