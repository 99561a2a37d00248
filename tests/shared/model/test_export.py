import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from shared.errors import AlreadyExists, CorruptData
from shared.model.export import export_version
from shared.model.golden import require_same
from shared.model.manifest import (
    MANIFEST_FILE,
    ONNX_FILE,
    WEIGHTS_FILE,
    Manifest,
    ProbabilityCurve,
    read_manifest,
)
from shared.model.network.checkpoint import load_checkpoint
from shared.model.network.iresnet import IResNet, IResNetSpec
from shared.model.sessions.factory import open_session
from shared.model.sessions.onnx import OnnxSession
from shared.model.sessions.torch import TorchSession
from tests.shared.model.conftest import save_checkpoint
from tests.shared.model.made_weights import NARROW, NARROW_EMBEDDING, narrow_state

Export = Callable[[IResNet], Manifest]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "iresnet18w4-12345678"


@pytest.fixture
def export(folder: Path, crops: NDArray[np.uint8]) -> Export:
    return lambda network: export_version(
        network,
        folder,
        model_version=folder.name,
        channel_order="rgb",
        threshold=0.25,
        magnitude_quantiles=(1, 2, 4),
        golden_crops=crops,
        job_id="job-7",
        probability=ProbabilityCurve(slope=20, intercept=-5),
        parent_version="iresnet18w4-00000000",
        data_snapshot="snapshot-3",
        compatible_versions=("iresnet18w4-00000000",),
        metrics={"accuracy": 0.9},
    )


def test_a_version_is_three_files_that_the_manifest_vouches_for(narrow_version: Path) -> None:
    assert {file.name for file in narrow_version.iterdir()} == {
        ONNX_FILE,
        WEIGHTS_FILE,
        MANIFEST_FILE,
    }
    files = read_manifest(narrow_version).files
    assert set(files) == {ONNX_FILE, WEIGHTS_FILE}
    for name, entry in files.items():
        data = (narrow_version / name).read_bytes()
        assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_onnx_file_stands_alone_and_takes_any_batch(narrow_version: Path) -> None:
    model = onnx.load(narrow_version / ONNX_FILE, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims[1:]] == [3, 112, 112]
    assert dims[0].dim_param
    session = OnnxSession(narrow_version / ONNX_FILE, "bgr")
    for batch in (1, 3, 33):
        assert session.run(np.zeros((batch, 112, 112, 3), np.uint8)).shape == (batch, 32)


def test_a_network_in_train_mode_is_exported_in_eval_mode_and_left_alone(
    narrow_checkpoint: Path,
    folder: Path,
    export: Export,
    crops: NDArray[np.uint8],
    capfd: pytest.CaptureFixture[str],
) -> None:
    network = load_checkpoint(narrow_checkpoint).network
    want = TorchSession(network, "rgb").run(crops)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    manifest = export(network.train())
    assert capfd.readouterr().out == ""
    assert network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    for engine in ("onnxruntime", "torch"):
        require_same(engine, want, open_session(folder, engine).run(crops))

    assert manifest == read_manifest(folder)
    assert manifest.architecture == "iresnet18w4"
    assert manifest.embedding_size == NARROW_EMBEDDING
    assert manifest.channel_order == "rgb"
    assert manifest.threshold == 0.25
    assert manifest.magnitude_quantiles == (1, 2, 4)
    assert manifest.parent_version == "iresnet18w4-00000000"
    assert manifest.job_id == "job-7"
    assert manifest.data_snapshot == "snapshot-3"
    assert manifest.compatible_versions == ("iresnet18w4-00000000",)
    assert manifest.probability == ProbabilityCurve(slope=20, intercept=-5)
    assert manifest.metrics == {"accuracy": 0.9}
    assert len(manifest.golden) == len(crops)
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


class Restless(IResNet):
    """Gives other output on each call, so no export of it has the same output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(super().forward(x), 0.5, training=True)


class Drifting(IResNet):
    """Gives other output at batch size 32 than at smaller batch sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = super().forward(x)
        if torch.compiler.is_exporting():
            return features
        return features + (0.1 if len(x) == 32 else 0.0)


@pytest.mark.parametrize(
    ("kind", "batch"), [(Restless, 1), pytest.param(Drifting, 32, marks=pytest.mark.slow)]
)
def test_an_unfaithful_export_makes_no_version(
    kind: type[IResNet], batch: int, folder: Path, export: Export
) -> None:
    network = kind(IResNetSpec((2, 2, 2, 2), (NARROW[0], *NARROW), NARROW_EMBEDDING))
    with pytest.raises(CorruptData, match=f"ONNX against torch at batch {batch}: cosine"):
        export(network)
    assert list(folder.parent.iterdir()) == []


def test_a_network_that_gives_nan_makes_no_version(
    narrow_checkpoint: Path, folder: Path, export: Export
) -> None:
    network = load_checkpoint(narrow_checkpoint).network
    with torch.no_grad():
        network.fc.bias[0] = torch.nan
    with pytest.raises(CorruptData, match="NaN"):
        export(network)
    assert list(folder.parent.iterdir()) == []


def test_a_version_is_never_overwritten(
    narrow_checkpoint: Path, folder: Path, export: Export
) -> None:
    folder.mkdir(parents=True)
    (folder / "precious").touch()
    with pytest.raises(AlreadyExists, match=folder.name):
        export(load_checkpoint(narrow_checkpoint).network)
    assert [file.name for file in folder.iterdir()] == ["precious"]


@pytest.mark.slow
def test_iresnet100_exports_faithfully(tmp_path: Path, folder: Path, export: Export) -> None:
    path = save_checkpoint(tmp_path / "x.pth", narrow_state("iresnet100"))
    assert export(load_checkpoint(path).network).architecture == "iresnet100w4"
    assert folder.is_dir()
