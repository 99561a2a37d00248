"""The variants of the ablation: each changes what it names, and only while it is measured."""

from pathlib import Path

import pytest
from torchvision.transforms import v2

from services.trainer.training import finetuner as finetune
from services.trainer.training import recipes
from services.trainer.training import run as learning
from services.trainer.training.recipes import RecipeFactory
from shared.errors import PreconditionFailed
from tests.benchmarks.ablation import VARIANTS, changed_by, make_table, run


def test_every_variant_names_something_that_is_there() -> None:
    before = (
        recipes.Hyperparameters,
        recipes.CosineObjective,
        finetune.augmentation,
        learning._MAX_REPLAY_ERROR,
    )
    for change in VARIANTS.values():
        with changed_by(change):
            assert RecipeFactory.half_trainer(None) is None  # type: ignore[call-arg, arg-type]
    after = (
        recipes.Hyperparameters,
        recipes.CosineObjective,
        finetune.augmentation,
        learning._MAX_REPLAY_ERROR,
    )
    assert before == after


def test_an_augmentation_loses_the_step_that_is_named() -> None:
    with changed_by(VARIANTS["augmentation without mirror"]):
        transform = finetune.augmentation(0.3)
    assert isinstance(transform, v2.Compose)
    assert not any(isinstance(step, v2.RandomHorizontalFlip) for step in transform.transforms)
    assert len(transform.transforms) == 2


def test_a_plan_keeps_all_but_what_is_changed() -> None:
    with changed_by(VARIANTS["no running average"]):
        plan = recipes.Hyperparameters(epochs=3, learning_rate=1e-3, seed=5, averaging=0.98)
    assert (plan.averaging, plan.epochs, plan.seed) == (0.0, 3, 5)


def test_gains_are_means_over_the_seeds() -> None:
    rows = [
        {view: {"accuracy": a, "tar": 0.1, "stored_tar": 0.0} for view in ("degraded", "clean")}
        for a in (4.0, 6.0)
    ]
    table = make_table({"as it is": rows, "not measured": []})
    assert "| as it is | +5.0 | +0.100 | +0.000 | +5.0 | +0.100 | +0.000 |" in table
    assert "not measured" not in table


def test_faces_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACES", "/nowhere")
    with pytest.raises(PreconditionFailed, match="FACES=DIR"):
        run(tmp_path)
