"""The sessions benchmark."""

from pathlib import Path

import pytest

from shared.errors import PreconditionFailed
from tests.benchmarks.sessions import run


def test_it_measures_every_batch_on_the_device_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGFACE_DEVICE", "cpu")
    found = run(tmp_path, 0.0, quick=True)
    assert found["device"] == "cpu"
    assert set(found["images_per_second"]) == {"1", "8", "32", "128"}
    assert min(found["images_per_second"].values()) > 0


def test_a_gpu_that_is_not_there_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGFACE_DEVICE", "cuda-fp16")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(PreconditionFailed, match="device cuda-fp16 was requested"):
        run(tmp_path, 0.0, quick=True)
