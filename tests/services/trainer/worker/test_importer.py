"""Import of checkpoints under the names and with the epsilon of their owners."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch

from services.trainer.data.reference_faces import default_reference
from services.trainer.evaluation.gate import GateOutcome
from services.trainer.settings import TrainerSettings
from services.trainer.worker.importer import ImportedVersion, import_checkpoint
from services.trainer.worker.memory import memory_limit, ran_out_of_memory
from services.trainer.worker.specs import ImportSpec, JobKind
from shared.errors import InvalidInput
from shared.model.default import DEFAULT_CHECKPOINT, default_calibration
from shared.model.manifest import read_manifest
from tests.shared.model.made_weights import State, narrow_state


def imported(path: Path, state: State | None = None, **options: object) -> ImportedVersion:
    """Import a state, or the bundled network."""
    if state is not None:
        torch.save({key: torch.from_numpy(value) for key, value in state.items()}, path)
    spec = {"upload": "0" * 64, "channel_order": "bgr", "threshold": 0.4, **options}
    return import_checkpoint(
        DEFAULT_CHECKPOINT if state is None else path,
        ImportSpec.model_validate(spec),
        uuid4(),
        path.parent,
        reference=default_reference(),
        report=lambda _: None,
        reference_note="64 people",
        magnitude_quantiles=(1.0, 2.0),
    )


def refused(version: ImportedVersion) -> set[str]:
    return {check.name for check in version.gate.checks if not check.passed}


@pytest.mark.parametrize(
    ("options", "named"),
    [({"file_name": "my best model.pth"}, "my best model.pth"), ({}, "the uploaded file")],
)
def test_errors_name_the_file_as_its_owner_does(
    options: dict[str, object], named: str, tmp_path: Path
) -> None:
    state = narrow_state()
    state["layer1.0.conv1.weight"] *= 0
    with pytest.raises(InvalidInput, match=named) as caught:
        imported(tmp_path / "uploaded-file", state, **options)
    assert "uploaded-file" not in caught.value.reason


@pytest.mark.parametrize(
    ("options", "eps"),
    [({}, 1e-5), ({"batch_norm_eps": 2e-5}, 2e-5), ({"batch_norm_eps": 1e-3}, 1e-3)],
)
def test_an_import_keeps_the_epsilon(
    options: dict[str, object], eps: float, tmp_path: Path
) -> None:
    state = narrow_state()
    state["features.weight"] = np.ones_like(state["features.weight"])
    folder = imported(tmp_path / "uploaded-file", state, **options).folder
    assert read_manifest(folder).batch_norm_eps == eps


def test_the_bundled_network_passes_at_its_threshold(tmp_path: Path) -> None:
    version = imported(tmp_path / "v", threshold=default_calibration().threshold)
    assert version.gate.passed
    for check in version.gate.checks[:-1]:
        assert check.low <= check.value <= check.high
        assert check.people == 64
        assert check.pairs >= 384
    manifest = read_manifest(version.folder)
    assert manifest.threshold == default_calibration().threshold
    assert manifest.operating_curve.genuine.people == 64
    assert manifest.probability(np.array([-0.5, 0.9])) == pytest.approx([0, 1], abs=0.05)
    assert manifest.reference_note == "64 people"


def test_a_threshold_that_nobody_gave_is_calibrated_on_the_reference(tmp_path: Path) -> None:
    version = imported(tmp_path / "v", threshold=None)
    manifest = read_manifest(version.folder)
    assert version.gate.passed
    assert manifest.threshold == manifest.probability.even
    assert 0.3 < manifest.threshold < 0.4


@pytest.mark.parametrize(
    ("threshold", "name"),
    [(-1.0, "threshold_fmr"), (0.0, "threshold_fmr"), (0.95, "threshold_fnmr")],
)
def test_a_threshold_outside_of_the_scores_is_refused_with_a_proposal(
    threshold: float, name: str, tmp_path: Path
) -> None:
    version = imported(tmp_path / "v", threshold=threshold)
    assert refused(version) == {name}
    [detail] = [check.detail for check in version.gate.checks if not check.passed]
    proposal = read_manifest(version.folder).probability.even
    assert f"a threshold of {proposal:.3f} has" in detail


@pytest.mark.parametrize("threshold", [-1.0, None])
def test_an_untrained_network_is_refused_at_any_threshold(
    threshold: float | None, tmp_path: Path
) -> None:
    version = imported(tmp_path / "uploaded-file", narrow_state(), threshold=threshold)
    assert "separation" in refused(version)
    assert version.gate.outcome is GateOutcome.FAILED


def settings(**options: object) -> TrainerSettings:
    required = {
        "s3_endpoint": "nowhere",
        "s3_access_key": "a",
        "s3_secret_key": "b",
        "database_url": "postgresql://nowhere",
    }
    return TrainerSettings.model_validate(required | options)


def test_imports_always_have_a_limit_and_other_jobs_on_request() -> None:
    unset = memory_limit(settings(), JobKind.IMPORT)
    assert unset is not None
    assert unset.max_bytes > settings().upload_max_bytes + 6 * 2**30
    assert memory_limit(settings(), JobKind.TRAIN) is None
    limited = settings(import_memory_bytes=2**30, worker_memory_bytes=2**31)
    for kind, max_bytes in ((JobKind.IMPORT, 2**30), (JobKind.TRAIN, 2**31)):
        limit = memory_limit(limited, kind)
        assert limit is not None
        assert limit.max_bytes == max_bytes


def test_a_lack_of_memory_is_recognized_under_other_errors() -> None:
    try:
        try:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        except RuntimeError as error:
            raise InvalidInput("checkpoint", "is damaged") from error
    except InvalidInput as error:
        assert ran_out_of_memory(error)
    assert not ran_out_of_memory(ValueError("another"))
    assert not ran_out_of_memory(InvalidInput("checkpoint", "out of memory.pth is damaged"))
