"""A complete training, on rendered people."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from cli.rendering.renderer import render_person
from services.trainer.data.label_report import Suspicion
from services.trainer.data.reference_faces import ReferenceFaces, default_reference
from services.trainer.data.splits import decode_feedback, split_feedback
from services.trainer.progress import Progress
from services.trainer.training.run import run_training
from services.trainer.training.spec import TrainingRecipe, TrainingSpec
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.face_reader import FaceReader
from shared.model.sessions.base import split_features
from shared.model.sessions.factory import open_session
from shared.settings import ImageLimits
from tests.default_version import export_default
from tests.services.trainer.feedback import MemoryCheckpoints, Rendered

JOB = "0123abcd-0000-4000-8000-000000000000"


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled default as a model version."""
    folder = tmp_path_factory.mktemp("versions") / "iresnet18w16-default"
    return export_default(folder, job_id=JOB)


def spec(**changes: object) -> TrainingSpec:
    return TrainingSpec(job_id=JOB, parent_version="iresnet18w16-default", **changes)  # type: ignore[arg-type]


def test_too_few_people_are_a_clear_refusal(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match=r"shows 20 people .* at least 30 are needed"):
        decode_feedback(
            Rendered(range(20), 2),
            FaceReader(ImageLimits()),
            tmp_path / "crops.npy",
            tick=lambda _: None,
        )


def test_training_validation_and_gate_share_no_image(tmp_path: Path) -> None:
    decoded = decode_feedback(
        Rendered(range(30), 3),
        FaceReader(ImageLimits()),
        tmp_path / "crops.npy",
        tick=lambda _: None,
    )
    split = split_feedback(decoded.images, decoded.pairs, seed=0)
    sides = [split.training, split.validation.images, split.held_out.images]
    for one, other in combinations([set(side.ravel()) for side in sides], 2):
        assert not one & other
    assert len(np.unique(split.held_out.people[split.held_out.genuine])) == 10
    assert len(np.unique(split.validation.people[split.validation.genuine])) == 6


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"epochs": 0}, "options.epochs"),
        ({"learning_rate": 0.0}, "options.learning_rate"),
        ({"learning_rate": float("nan")}, "options.learning_rate"),
        ({"batch_size": 1}, "options.batch_size"),
        ({"genuine_margin": 1.5}, "options.genuine_margin"),
        ({"seed": -1}, "options.seed"),
        ({"recipe": TrainingRecipe.HADSELL, "impostor_margin": 0.1}, "options.impostor_margin"),
    ],
)
def test_an_option_out_of_range_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        spec(**changes)
    assert raised.value.field == field


@pytest.mark.slow
def test_training_improves_on_people_it_has_never_seen(parent: Path, tmp_path: Path) -> None:
    reference = ReferenceFaces(
        np.stack([render_person(p, i) for p in range(9000, 9020) for i in range(3)]),
        np.repeat(np.arange(20), 3),
        groups=("rendered",) * 20,
    )
    reported: list[Progress] = []
    outcome = run_training(
        spec(epochs=4),
        feedback=Rendered(range(90), 4),
        parent=parent,
        reference=reference,
        workdir=tmp_path,
        checkpoints=MemoryCheckpoints(),
        report=reported.append,
    )
    checks = {check.name: check for check in outcome.gate.checks}
    assert outcome.gate.passed, [check for check in outcome.gate.checks if not check.passed]
    assert checks["heldout_gain"].value > 0
    assert "'rendered'" in checks["group_errors"].detail
    assert checks["group_errors"].people == 10
    metrics = outcome.manifest.metrics
    assert metrics["child_error"] < metrics["parent_error"]
    probability = outcome.manifest.probability
    assert probability is not None
    below, above = probability(np.array([-0.5, 1.0]))
    assert below < 0.1
    assert above > 0.9
    assert outcome.manifest.model_version == "iresnet18w16-0123abcd"
    assert outcome.manifest.compatible_versions == ("iresnet18w16-default",)
    assert outcome.manifest.data_snapshot == "snapshot-1"
    fractions = [progress.fraction for progress in reported]
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert {"epoch", "loss"} <= set().union(*(progress.figures for progress in reported))


@pytest.mark.slow
def test_wrong_labels_are_found_before_they_are_learned(parent: Path, tmp_path: Path) -> None:
    feedback = Rendered(range(60), 3)
    right = {(pair.sha256_a, pair.sha256_b): pair.same for pair in feedback.pairs()}
    feedback.flip(share=0.2, seed=3)
    wrong = sum(pair.same != right[pair.sha256_a, pair.sha256_b] for pair in feedback.pairs())
    reported: list[Progress] = []
    outcome = run_training(
        spec(epochs=2),
        feedback=feedback,
        parent=parent,
        reference=default_reference(),
        workdir=tmp_path,
        checkpoints=MemoryCheckpoints(),
        report=reported.append,
    )
    assert outcome.labels.treated
    assert outcome.labels.wrong_share == pytest.approx(0.2, abs=0.06)
    unlikely = [one for one in outcome.labels.suspects if one.reason is Suspicion.UNLIKELY]
    found = sum(one.same != right[one.sha256_a, one.sha256_b] for one in unlikely)
    assert found / len(unlikely) > 0.7
    # Half of 60 people in one epoch is little to learn from: with more people more are found.
    assert found / wrong > 0.4
    fractions = [progress.fraction for progress in reported]
    assert fractions == sorted(fractions)
    assert "checking the labels, epoch 1" in {progress.message for progress in reported}


def known_people(parent: Path, count: int) -> list[int]:
    """Rendered people whose first three pictures the parent takes for one person."""
    session = open_session(parent)
    known: list[int] = []
    for person in range(10_000):
        crops = np.stack([render_person(person, image) for image in range(3)])
        unit = split_features(session.run(crops))[0]
        if (unit @ unit.T).min() > 0.5:
            known.append(person)
        if len(known) == count:
            break
    return known


@pytest.mark.slow
def test_without_reference_faces_people_that_the_parent_knows_are_set_aside(
    parent: Path, tmp_path: Path
) -> None:
    reported: list[Progress] = []
    outcome = run_training(
        spec(epochs=1),
        feedback=Rendered(known_people(parent, 65), 3),
        parent=parent,
        reference=None,
        workdir=tmp_path,
        checkpoints=MemoryCheckpoints(),
        report=reported.append,
    )
    note = outcome.manifest.reference_note
    assert re.match(
        r"10 people set aside from the feedback; \d+ images of the feedback are held to the", note
    )
    assert note in {progress.message for progress in reported}
    # Pictures of the feedback can be erased, so they are not stored as reference faces.
    assert outcome.manifest.reference is None


@pytest.mark.slow
def test_without_reference_faces_people_that_the_parent_does_not_know_are_learned(
    parent: Path, tmp_path: Path
) -> None:
    outcome = run_training(
        spec(epochs=1),
        feedback=Rendered(range(40), 3),
        parent=parent,
        reference=None,
        workdir=tmp_path,
        checkpoints=MemoryCheckpoints(),
        report=lambda _: None,
    )
    note = outcome.manifest.reference_note
    assert re.match(r"rendered people, .*; the parent errs on \d+\.\d% of the feedback", note)
