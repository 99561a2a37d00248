"""Parts of the selection benchmark; `make bench-selection` runs all of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.feedback.pool.calibration import Calibration
from services.feedback.selection.strategies import Strategy
from tests.benchmarks.learning.faces import draw_pairs
from tests.benchmarks.selection.choice import (
    EmbeddedPool,
    Shares,
    choose_in_rounds,
    draw_uniform,
    shares_of,
)
from tests.benchmarks.selection.linear_learner import learn_map
from tests.benchmarks.selection.rows import SelectionResults, SelectionRow, rows
from tests.benchmarks.selection.summary import summarise


def test_a_bar_compares_fewer_labels_with_random_seed_by_seed() -> None:
    finished = {
        SelectionRow("training", "rendered", "random", 1000, seed): {
            "accuracy": 0.8 + 0.05 * seed,
            "genuine": 80,
        }
        for seed in (0, 1, 2)
    }
    for labels, seed, accuracy in ((600, 0, 0.84), (600, 1, 0.84), (400, 1, 0.8), (1000, 2, 0.9)):
        row = SelectionRow("training", "rendered", "default", labels, seed)
        finished[row] = {"accuracy": accuracy, "genuine": 200}
    bars = summarise(finished)["bars"]["training, rendered"]
    assert bars.keys() == {"default, 400", "default, 600"}
    held, missed = bars["default, 600"], bars["default, 400"]
    assert (held["held"], held["seeds_ahead"], held["seeds"]) == (True, 1, 2)
    assert np.isclose(held["ahead"], 0.015)
    assert (missed["held"], missed["spread"]) == (False, None)
    assert np.isclose(missed["ahead"], -0.05)


def test_a_curve_keeps_kinds_of_rows_apart() -> None:
    rows_of = {
        SelectionRow("linear", "real", "hard", 200, seed, retrained): {
            "accuracy": 0.7 + 0.1 * retrained,
            "genuine": 1,
        }
        for seed in (0, 1)
        for retrained in (False, True)
    }
    curves = summarise(rows_of)["curves"]
    assert curves["linear, real"]["hard"]["200"]["mean"] == pytest.approx(0.7)
    assert curves["linear, real, retrained"]["hard"]["200"]["mean"] == pytest.approx(0.8)


def test_a_uniform_draw_is_of_distinct_pairs() -> None:
    pairs = draw_uniform(30, 200, np.random.default_rng(0))
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == 200
    assert np.all(pairs[:, 0] < pairs[:, 1])


def test_every_row_is_measured_once_and_kept_under_its_pairs(tmp_path: Path) -> None:
    todo = rows(("linear", "training"), ("rendered", "real"))
    assert len(set(todo)) == len(todo)
    pairs = np.array([[0, 1], [2, 5]])
    stored = SelectionResults(tmp_path / "rows.json", "faces network")
    stored.put(todo[0], pairs, {"accuracy": 0.5})
    again = SelectionResults(tmp_path / "rows.json", "faces network")
    assert again.get(todo[0], pairs) == {"accuracy": 0.5}
    assert again.get(todo[0], pairs + 1) is None
    assert again.get(todo[1], pairs) is None
    assert SelectionResults(tmp_path / "rows.json", "others").get(todo[0], pairs) is None


def made_pool() -> tuple[EmbeddedPool, np.ndarray]:
    """A pool as embedded by a mediocre network, and the person in each image."""
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(60), 5)
    embeddings = rng.normal(size=(60, 24))[persons] + 1.1 * rng.normal(size=(300, 24))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    quality = rng.random(300).astype(np.float32)
    return EmbeddedPool(embeddings.astype(np.float32), quality, Calibration(0.2, None)), persons


def choose(count: int, shares: Shares, **how: Any) -> np.ndarray:
    pool, persons = made_pool()
    rng = np.random.default_rng(0)
    return choose_in_rounds(pool, shares, count, persons=persons, rng=rng, **how)


def test_a_choice_in_rounds_has_as_many_distinct_pairs_as_asked_for() -> None:
    shares = {Strategy.HARD: 0.5, Strategy.RANDOM: 0.5}
    pairs = choose(250, shares)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == 250
    assert np.array_equal(choose(200, shares), pairs[:200])


def test_disagreement_asks_where_the_new_version_differs() -> None:
    pool, _ = made_pool()
    # The new version has only half of the dimensions.
    reduced = pool.embeddings[:, :12] / np.linalg.norm(pool.embeddings[:, :12], axis=1)[:, None]
    newer = EmbeddedPool(reduced, pool.quality, pool.calibration)
    asked_with: list[int] = []

    def retrain(pairs: np.ndarray) -> EmbeddedPool:
        asked_with.append(len(pairs))
        return newer

    shares = {Strategy.DISAGREEMENT: 1.0}
    pairs = choose(300, shares, retrain=retrain)
    assert asked_with == [200]
    assert np.array_equal(pairs[:200], choose(200, shares_of("default")))

    def differs(some: np.ndarray) -> float:
        return float(np.abs(pool.csls(some) - newer.csls(some)).mean())

    assert differs(pairs[200:]) > 1.2 * differs(pairs[:200])


def test_the_linear_learner_learns_from_pairs() -> None:
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(80), 4)
    # Half of the features do not depend on the person.
    informative = rng.normal(size=(80, 8))[persons] + 0.5 * rng.normal(size=(320, 8))
    features = np.concatenate((informative, 2 * rng.normal(size=(320, 8))), axis=1).astype(
        np.float32
    )
    pairs = draw_pairs(persons[:160], 300, seed=0)
    learned = learn_map(features, pairs)

    def separation(features: np.ndarray) -> float:
        unit = features[160:] / np.linalg.norm(features[160:], axis=1, keepdims=True)
        cosine = unit @ unit.T
        same = persons[160:, None] == persons[None, 160:]
        others = ~np.eye(160, dtype=bool)
        return float(cosine[same & others].mean() - cosine[~same].mean())

    assert separation(features @ learned.T) > separation(features) + 0.01
