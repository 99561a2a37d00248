"""The selection benchmark's parts; the whole of it is `make bench-selection`."""

from pathlib import Path

import numpy as np

from services.feedback.belief import Calibration
from services.feedback.strategies import Strategy
from tests.benchmarks.selection import choose_in_rounds, view_of
from tests.benchmarks.selection_rows import KeptSelections, SelectionRow, rows, summarise


def test_the_bar_is_held_by_the_fewest_labels_that_reach_random() -> None:
    finished = {
        SelectionRow("rendered", "random", 1000, seed): {"accuracy": 0.8} for seed in (0, 1)
    }
    for labels, accuracy in ((600, 0.84), (400, 0.81), (200, 0.7)):
        finished[SelectionRow("rendered", "default", labels, 0)] = {"accuracy": accuracy}
    bar = summarise(finished)["bar"]["rendered"]
    assert (bar["labels"], bar["seeds"], bar["held"]) == (400, 1, True)


def test_a_bar_that_is_missed_says_by_how_much() -> None:
    finished = {
        SelectionRow("rendered", "random", 1000, 0): {"accuracy": 0.8},
        SelectionRow("rendered", "default", 600, 0): {"accuracy": 0.75},
    }
    bar = summarise(finished)["bar"]["rendered"]
    assert not bar["held"]
    assert np.isclose(bar["ahead"], -0.05)


def test_every_row_is_measured_once_and_kept(tmp_path: Path) -> None:
    todo = rows(("rendered", "real"))
    assert len(set(todo)) == len(todo) == 2 * 3 * 11
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
