"""The fine-tuning loop: what it changes, what it must not change, and how it resumes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.rendering.renderer import render_person
from services.trainer.data.batches import people_batches
from services.trainer.data.labels import LabelledPair
from services.trainer.data.pair_graph import build_graph
from services.trainer.training.camera import Camera, Spoiling
from services.trainer.training.features import compute_features
from services.trainer.training.finetuner import Epoch, FacesWithParent, Finetuner, Hyperparameters
from services.trainer.training.losses import (
    CosineObjective,
    HadsellObjective,
    Objective,
    margins_around,
)
from services.trainer.training.replay import ReplayedFaces
from shared.errors import CorruptData
from shared.model.network.iresnet import IResNet, IResNetSpec
from tests.services.trainer.feedback import Killed, MemoryCheckpoints


def tiny_network(blocks: int = 1) -> IResNet:
    """A random network with this number of blocks per stage."""
    torch.manual_seed(0)
    spec = IResNetSpec((blocks,) * 4, widths=(4, 4, 4, 8, 8), embedding_size=16)
    return IResNet(spec).eval()


CAMERA = Camera((Spoiling(40, 1.0, 0.7, 2.0, 60),))
PEOPLE, IMAGES = 6, 3
CROPS = np.stack([render_person(p, i) for p in range(PEOPLE) for i in range(IMAGES)])
GRAPH = build_graph(
    [f"{p}{i}" for p in range(PEOPLE) for i in range(IMAGES)],
    [LabelledPair(f"{p}{i}", f"{p}{i + 1}", same=True) for p in range(PEOPLE) for i in (0, 1)],
)


def finetuner(
    network: IResNet,
    objective: Objective | None = None,
    *,
    replay: bool = True,
    epochs: int = 3,
    learning_rate: float = 1e-3,
    augmentation: float | None = 0.3,
    images_at_once: int | None = 64,
    averaging: float = 0.0,
) -> Finetuner:
    faces = FacesWithParent(CROPS, compute_features(network, "bgr", CROPS))
    return Finetuner(
        network,
        "bgr",
        hyperparameters=Hyperparameters(
            epochs=epochs,
            learning_rate=learning_rate,
            seed=7,
            augmentation=augmentation,
            images_at_once=images_at_once,
            averaging=averaging,
        ),
        objective=objective or CosineObjective(margins=margins_around(0.3)),
        feedback=faces,
        batches=partial(people_batches, GRAPH, np.arange(len(CROPS)), 9),
        replay=ReplayedFaces(CROPS[:6], CAMERA) if replay else None,
    )


def train(
    tuner: Finetuner,
    tmp_path: Path,
    state: MemoryCheckpoints | None = None,
    validate: Callable[[IResNet], float] = lambda _: 0.0,
) -> list[Epoch]:
    return tuner.run(validate, state or MemoryCheckpoints(), tmp_path / "epoch.pt", lambda *_: None)


def in_turn(scores: list[float]) -> Callable[[IResNet], float]:
    """Return one score after the other, whatever the network."""
    remaining = iter(scores)
    return lambda _: next(remaining)


def weights(network: IResNet) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_all_layers_learn_and_batch_statistics_stay(tmp_path: Path) -> None:
    network = tiny_network()
    before = weights(network)
    train(finetuner(network), tmp_path)
    learnt = {name for name, _ in network.named_parameters()}
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]) == (key not in learnt), key
    assert not network.training


@pytest.mark.parametrize("width", [4, 16])
def test_the_memory_layout_is_the_usual_one_again_at_the_end(tmp_path: Path, width: int) -> None:
    torch.manual_seed(0)
    spec = IResNetSpec((1,) * 4, widths=(width,) * 5, embedding_size=16)  # type: ignore[arg-type]
    network = IResNet(spec).eval()
    tuner = finetuner(network, epochs=1)
    last = network.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert last == (width == 16)
    train(tuner, tmp_path)
    assert all(each.is_contiguous() for each in network.parameters())


def test_same_seed_and_data_give_the_same_weights(tmp_path: Path) -> None:
    first, second = tiny_network(), tiny_network()
    one, other = train(finetuner(first), tmp_path), train(finetuner(second), tmp_path)
    assert equal(weights(first), weights(second))
    assert [epoch.loss for epoch in one] == [epoch.loss for epoch in other]


@pytest.mark.parametrize("killed_after", [1, 2])
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    tmp_path: Path, killed_after: int
) -> None:
    scores = [0.3, 0.1, 0.2]
    undisturbed = tiny_network()
    want = train(finetuner(undisturbed), tmp_path, validate=in_turn(scores))

    state = MemoryCheckpoints(kill_after=killed_after)
    remaining = in_turn(scores)
    with pytest.raises(Killed):
        train(finetuner(tiny_network()), tmp_path, state, remaining)
    torch.rand(17)  # another process has another random state
    resumed = tiny_network()
    got = train(finetuner(resumed), tmp_path, state, remaining)

    assert equal(weights(resumed), weights(undisturbed))
    assert [(epoch.number, epoch.loss) for epoch in got] == [
        (epoch.number, epoch.loss) for epoch in want
    ]


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    state, network = MemoryCheckpoints(), tiny_network()
    train(finetuner(network), tmp_path, state)
    again = tiny_network()
    train(finetuner(again), tmp_path, state, validate=lambda _: pytest.fail("trained again"))
    assert equal(weights(network), weights(again))


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        pytest.param([0.1, 0.9, 0.5], 1, id="the best one"),
        pytest.param([0.1, 0.9, 0.895], 2, id="the latest of those that differ by chance only"),
    ],
)
def test_of_the_epochs_is_kept(tmp_path: Path, scores: list[float], kept: int) -> None:
    network, next_score = tiny_network(), in_turn(scores)
    seen: list[dict[str, torch.Tensor]] = []

    def validate(averaged: IResNet) -> float:
        seen.append(weights(averaged))
        return next_score(averaged)

    epochs = train(finetuner(network), tmp_path, validate=validate)
    assert [epoch.score for epoch in epochs] == scores
    assert [equal(weights(network), each) for each in seen] == [i == kept for i in range(3)]


def test_what_comes_of_a_training_is_averaged(tmp_path: Path) -> None:
    def change(averaging: float) -> torch.Tensor:
        network = tiny_network()
        train(finetuner(network, averaging=averaging), tmp_path)
        pairs = zip(network.parameters(), tiny_network().parameters(), strict=True)
        return torch.cat([(new - old).detach().flatten() for new, old in pairs])

    assert 0 < change(averaging=0.98).norm() < change(averaging=0.0).norm()


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_diverging_training_says_where_and_what_to_do(tmp_path: Path) -> None:
    tuner = finetuner(tiny_network(), HadsellObjective(), learning_rate=1e18, replay=False)
    with pytest.raises(CorruptData, match=r"epoch \d+.*learning rate below"):
        train(tuner, tmp_path)


def test_stopping_takes_effect_within_a_step(tmp_path: Path) -> None:
    ticks = 0

    def tick(*_: float) -> None:
        nonlocal ticks
        ticks += 1
        raise Killed

    with pytest.raises(Killed):
        finetuner(tiny_network()).run(lambda: 0.0, MemoryCheckpoints(), tmp_path / "epoch.pt", tick)
    assert ticks == 1


def test_distillation_and_replay_hold_the_network_near_its_parent(tmp_path: Path) -> None:
    def drift(objective: CosineObjective, replay: bool) -> float:
        network = tiny_network()
        before = compute_features(network, "bgr", CROPS[:6])
        train(finetuner(network, objective, replay=replay, augmentation=None), tmp_path)
        after = compute_features(network, "bgr", CROPS[:6])
        return float(np.linalg.norm(after - before, axis=1).mean())

    margins = margins_around(0.3)
    free = CosineObjective(margins=margins, distillation=0, magnitude=0, compatibility=0)
    held = CosineObjective(margins=margins, distillation=0.5, replay_distillation=10, magnitude=1)
    assert drift(held, replay=True) < 0.5 * drift(free, replay=False)


def test_hadsell_pulls_pairs_together(tmp_path: Path) -> None:
    network = tiny_network()
    epochs = train(
        finetuner(network, HadsellObjective(), replay=False, epochs=6, augmentation=None),
        tmp_path,
    )
    assert epochs[-1].loss < epochs[0].loss


@pytest.mark.parametrize("images_at_once", [1, 5])
def test_a_step_in_parts_learns_what_a_whole_one_does(images_at_once: int, tmp_path: Path) -> None:
    whole, parted = tiny_network(blocks=2), tiny_network(blocks=2)
    train(finetuner(whole, epochs=1), tmp_path)
    train(finetuner(parted, epochs=1, images_at_once=images_at_once), tmp_path)
    before = weights(tiny_network(blocks=2))
    for key, value in weights(whole).items():
        if value.is_floating_point():
            torch.testing.assert_close(parted.state_dict()[key], value, rtol=1e-3, atol=1e-5)
    assert not equal(before, weights(parted))
