"""Parts of the learning benchmark; `make bench-learning` runs all of it."""

from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from cli.rendering.renderer import render_person
from services.trainer.data.batches import people_batches
from services.trainer.data.labels import LabelledPair
from services.trainer.data.pair_graph import build_graph
from services.trainer.training import recipes
from services.trainer.training import run as learning
from services.trainer.training.checkpoint import NoCheckpoints
from services.trainer.training.features import compute_features
from services.trainer.training.finetuner import FacesWithParent, Hyperparameters
from services.trainer.training.losses import CosineObjective, margins_around
from shared.model.network.iresnet import IResNet, IResNetSpec
from tests.benchmarks.learning import label_noise, regret
from tests.benchmarks.learning.baselines import LoraFinetuner, as_baseline
from tests.benchmarks.learning.degradation import degrade
from tests.benchmarks.learning.faces import PairRows, draw_pairs
from tests.benchmarks.learning.figures import figures
from tests.benchmarks.learning.label_noise import Found, spoil_labels
from tests.benchmarks.learning.rows import LearningResults, LearningRow
from tests.benchmarks.learning.seed_loop import (
    make_optimizer,
    seed_accuracy,
    seed_step,
    train_as_seed,
)
from tests.benchmarks.learning.speed import four_pairs_an_image
from tests.benchmarks.learning.table import make_table


def test_the_bad_camera_takes_the_same_picture_again() -> None:
    face = render_person(1, 0)
    assert np.array_equal(degrade(face, 7), degrade(face, 7))
    assert not np.array_equal(degrade(face, 7), degrade(face, 8))


def test_the_bad_camera_is_dark_and_coarse() -> None:
    face = render_person(1, 0)
    for seed in range(20):
        bad = degrade(face, seed)
        assert bad.shape == face.shape
        assert bad.mean() < 0.85 * face.mean()
        # 28 pixels cannot show fine structure.
        assert _finest(bad) < 0.5 * _finest(face)


def _finest(image: np.ndarray) -> float:
    spectrum = np.abs(np.fft.fft2(image.mean(axis=2)))
    return float(spectrum[40:73, 40:73].mean())


def test_pairs_are_distinct_and_half_of_them_genuine() -> None:
    persons = np.repeat(np.arange(40), 5)
    pairs = draw_pairs(persons, 200, seed=3)
    left, right = pairs.rows.T
    assert len({tuple(row) for row in pairs.rows.tolist()}) == 200
    assert pairs.same.sum() == 100
    assert np.array_equal(persons[left] == persons[right], pairs.same)
    flipped = pairs.with_wrong_labels(0.2, seed=0)
    assert 20 < (flipped.same != pairs.same).sum() < 60


def test_each_image_of_the_speed_test_is_in_four_pairs() -> None:
    pairs = four_pairs_an_image()
    assert set(np.bincount(pairs.rows.ravel()).tolist()) == {4}
    assert len({frozenset(row) for row in pairs.rows.tolist()}) == len(pairs.rows)


@pytest.fixture
def tiny() -> torch.nn.Module:
    """A tiny network with BatchNorm that uses all colour channels."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(48, 8),
        torch.nn.BatchNorm1d(8),
    )


def test_the_seeds_step_is_the_contrastive_loss_and_learns_a_pair(tiny: torch.nn.Module) -> None:
    first, second = torch.rand(6, 3, 112, 112), torch.rand(6, 3, 112, 112)
    label = torch.tensor([1.0, 0.0] * 3)
    tiny.eval()
    unit = [torch.nn.functional.normalize(tiny(x), dim=1) for x in (first, second)]
    distance = (unit[0] - unit[1] + 1e-6).norm(dim=1)
    expected = torch.where(label > 0, distance**2, (1 - distance).clamp_min(0) ** 2).mean()
    optimizer = make_optimizer(tiny)
    losses = [seed_step(tiny, optimizer, first, second, label) for _ in range(200)]
    assert losses[0] == pytest.approx(expected.item(), rel=1e-5)
    assert losses[-1] < losses[0] / 2


def test_the_seeds_accuracy_changes_nothing(tiny: torch.nn.Module) -> None:
    tiny.train()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    image = torch.rand(4, 3, 112, 112)
    assert seed_accuracy(tiny, image, image, torch.ones(4)) == 1.0
    assert tiny.training
    assert all(torch.equal(before[name], value) for name, value in tiny.state_dict().items())


def test_the_seeds_loop_replaces_the_batch_statistics(tiny: torch.nn.Module) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (12, 112, 112, 3), np.uint8)
    pairs = draw_pairs(np.repeat(np.arange(4), 3), 18, seed=0)
    train_as_seed(tiny, "bgr", crops, pairs, epochs=1, seed=0, report=lambda _: None)
    norm = cast("torch.nn.BatchNorm1d", tiny[3])  # type: ignore[index]
    assert norm.running_mean is not None
    assert norm.running_mean.abs().sum() > 0
    assert not tiny.training


def test_figures_of_a_perfect_network_are_perfect() -> None:
    persons = np.repeat(np.arange(10), 3)
    features = 20 * np.eye(10, dtype=np.float32)[persons]
    found = figures((features, persons), (features, persons), features)
    assert (found.accuracy, found.tar, found.stored_tar, found.magnitude) == (1, 1, 1, 20)
    assert 0 < found.threshold <= 1
    worse = figures((features, persons), (features, persons), np.roll(features, 3, axis=0))
    assert worse.stored_tar == 0


def test_finished_rows_are_found_again(tmp_path: Path) -> None:
    file, row = tmp_path / "rows.json", LearningRow("real", "ours", seed=1)
    LearningResults(file, "lfw").put(row, {"degraded": 1})
    assert LearningResults(file, "lfw").get(row) == {"degraded": 1}
    assert LearningResults(file, "other").get(row) is None
    assert LearningResults(file, "lfw").get(LearningRow("real", "ours", seed=2)) is None


def test_a_gain_is_against_the_parent_on_the_same_people() -> None:
    def view(accuracy: float) -> dict[str, dict[str, float]]:
        return {
            "rendered": {
                "accuracy": accuracy,
                "accuracy_at_fewest": accuracy + 0.01,
                "tar": 0.5,
                "stored_tar": 0.5,
                "threshold": 0.3,
                "magnitude": 20.0,
            }
        }

    table = make_table(
        {
            LearningRow("rendered", "parent"): view(0.8),
            LearningRow("rendered", "parent", seed=1): view(0.7),
            LearningRow("rendered", "ours"): view(0.86),
            LearningRow("rendered", "ours", seed=1): view(0.78),
        }
    )
    assert "| ours | clean | 0, 1 | 0.820 ± 0.057 | +7.0 ± 1.4 | +7.0 ± 1.4 |" in table


def test_labelled_pairs_keep_their_rows_when_labels_go_wrong() -> None:
    pairs = PairRows(np.array([[0, 1], [2, 3]]), np.array([True, False]))
    assert pairs.with_wrong_labels(1.0, seed=0).same.tolist() == [False, True]
    assert pairs.with_wrong_labels(0.0, seed=0).same.tolist() == [True, False]


def test_lora_changes_layers_by_a_low_rank_and_leaves_the_rest(tmp_path: Path) -> None:
    crops = np.stack([render_person(person, image) for person in range(4) for image in range(2)])
    torch.manual_seed(0)
    network = IResNet(IResNetSpec((1,) * 4, widths=(4, 4, 4, 8, 8), embedding_size=32)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    names = [f"{place}" for place in range(len(crops))]
    same = [LabelledPair(names[i], names[i + 1], same=True) for i in range(0, len(crops), 2)]
    LoraFinetuner(
        network,
        "bgr",
        hyperparameters=Hyperparameters(epochs=1, learning_rate=1e-3, seed=0),
        objective=CosineObjective(margins=margins_around(0.3)),
        feedback=FacesWithParent(crops, compute_features(network, "bgr", crops)),
        batches=partial(people_batches, build_graph(names, same), np.arange(len(crops)), 4),
        replay=None,
    ).run(lambda _: 0.0, NoCheckpoints(), tmp_path / "epoch.pt", lambda *_: None)
    after = network.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    layers = {name for name in before if before[name].dim() > 1}
    assert changed == layers
    assert torch.linalg.matrix_rank(after["fc.weight"] - before["fc.weight"], atol=1e-5) <= 16


@pytest.mark.parametrize("recipe", ["ours", "lora", "bct", "hadsell"])
def test_a_baseline_changes_what_is_there_and_only_for_its_time(recipe: str) -> None:
    def parts() -> list[object]:
        names = (recipes.Finetuner, recipes.CosineObjective, learning.step_back)
        return [*names, learning._MAX_REPLAY_ERROR]

    before = parts()
    with as_baseline(recipe):
        assert (parts() == before) == (recipe == "ours")
    assert parts() == before


def test_one_liar_of_five_turns_a_fifth_of_the_labels() -> None:
    pairs = draw_pairs(np.repeat(np.arange(40), 5), 200, seed=3)
    wrong = spoil_labels(pairs, "one liar of five").same != pairs.same
    assert np.flatnonzero(wrong).tolist() == list(range(0, 200, 5))
    assert (spoil_labels(pairs, 0.0).same == pairs.same).all()


def test_the_search_for_wrong_labels_is_told_by_its_shares() -> None:
    found = Found(
        wrong=100,
        suspected=80,
        right_suspected=20,
        doubted=50,
        doubted_suspected=10,
        left_out=True,
    )
    table = label_noise.make_table({label_noise.NoiseRow("rendered", 0.2): found})
    assert "| 75% (60 of 80) | 60% (60 of 100) | 4% (20 of 500) | 20% (10 of 50) |" in table


def test_regret_is_the_candidate_minus_the_parent() -> None:
    one = {"parent_fnmr": 0.2, "candidate_fnmr": 0.21, "parent_share": 0.5, "gate_passed": False}
    other = one | {"candidate_fnmr": 0.18, "parent_share": 1.0}
    table = regret.make_table({regret.RegretRow("real", True, 100): [one, other]})
    assert "| -0.5 ± 1.5 | +1.0 | 0.5, 1 | 0 of 2 |" in table
