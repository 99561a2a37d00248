"""The selection benchmark's parts; the whole of it is `make bench-selection`."""

from pathlib import Path

import numpy as np

from services.feedback.belief import Calibration
from services.feedback.strategies import Strategy
from tests.benchmarks.learning_faces import draw_pairs
from tests.benchmarks.selection import choose_in_rounds, view_of
from tests.benchmarks.selection_linear import learn_map
from tests.benchmarks.selection_rows import KeptSelections, SelectionRow, rows, summarise


def test_the_bar_is_held_by_the_fewest_labels_that_reach_random() -> None:
    finished = {
        SelectionRow("training", "rendered", "random", 1000, seed): {"accuracy": 0.8}
        for seed in (0, 1)
    }
    for labels, accuracy in ((600, 0.84), (400, 0.81), (200, 0.7)):
        finished[SelectionRow("training", "rendered", "default", labels, 0)] = {
            "accuracy": accuracy
        }
    bar = summarise(finished)["bars"]["training, rendered"]
    assert (bar["labels"], bar["seeds"], bar["held"]) == (400, 1, True)


def test_a_bar_that_is_missed_says_by_how_much() -> None:
    finished = {
        SelectionRow("training", "rendered", "random", 1000, 0): {"accuracy": 0.8},
        SelectionRow("training", "rendered", "default", 600, 0): {"accuracy": 0.75},
    }
    bar = summarise(finished)["bars"]["training, rendered"]
    assert not bar["held"]
    assert np.isclose(bar["ahead"], -0.05)


def test_every_row_is_measured_once_and_kept(tmp_path: Path) -> None:
    todo = rows(("linear", "training"), ("rendered", "real"))
    assert len(set(todo)) == len(todo) == 2 * 2 * 3 * 11
    kept = KeptSelections(tmp_path / "rows.json", "faces network")
    kept.put(todo[0], {"accuracy": 0.5})
    again = KeptSelections(tmp_path / "rows.json", "faces network")
    assert again.get(todo[0]) == {"accuracy": 0.5}
    assert again.get(todo[1]) is None
    assert KeptSelections(tmp_path / "rows.json", "others").get(todo[0]) is None


def test_a_choice_in_rounds_has_as_many_distinct_pairs_as_asked_for() -> None:
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(60), 5)
    embeddings = rng.normal(size=(60, 24))[persons] + 1.1 * rng.normal(size=(300, 24))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    view = view_of(embeddings.astype(np.float32), rng.random(300).astype(np.float32))
    shares = {Strategy.HARD: 0.5, Strategy.RANDOM: 0.5}
    pairs = choose_in_rounds(view, Calibration(0.2, None), shares, 250, persons=persons, rng=rng)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == 250


def test_the_linear_learner_learns_from_pairs() -> None:
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(80), 4)
    # Half of what is seen says nothing of who it is.
    told = rng.normal(size=(80, 8))[persons] + 0.5 * rng.normal(size=(320, 8))
    features = np.concatenate((told, 2 * rng.normal(size=(320, 8))), axis=1).astype(np.float32)
    pairs = draw_pairs(persons[:160], 300, seed=0)
    learned = learn_map(features, pairs)

    def apart(seen: np.ndarray) -> float:
        unit = seen[160:] / np.linalg.norm(seen[160:], axis=1, keepdims=True)
        cosine = unit @ unit.T
        same = persons[160:, None] == persons[None, 160:]
        others = ~np.eye(160, dtype=bool)
        return float(cosine[same & others].mean() - cosine[~same].mean())

    assert apart(features @ learned.T) > apart(features) + 0.01
