"""Import of checkpoints under the names and with the epsilon of their owners."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch

from services.trainer.data.reference_faces import default_reference
from services.trainer.settings import TrainerSettings
from services.trainer.worker.importer import import_checkpoint
from services.trainer.worker.memory import memory_limit, ran_out_of_memory
from services.trainer.worker.specs import ImportSpec, JobKind
from shared.errors import InvalidInput
from shared.model.manifest import read_manifest
from tests.shared.model.made_weights import State, narrow_state


def imported(path: Path, state: State, **options: object) -> Path:
    torch.save({key: torch.from_numpy(value) for key, value in state.items()}, path)
    spec = {"upload": "0" * 64, "channel_order": "bgr", "threshold": 0.4, **options}
    return import_checkpoint(
        path,
        ImportSpec.model_validate(spec),
        uuid4(),
        path.parent,
        reference=default_reference(),
        report=lambda _: None,
        magnitude_quantiles=(1.0, 2.0),
    )


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
    folder = imported(tmp_path / "uploaded-file", state, **options)
    assert read_manifest(folder).batch_norm_eps == eps


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
