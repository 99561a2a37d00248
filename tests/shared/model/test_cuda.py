"""CUDA support, as far as it can be tested without a GPU."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from shared.errors import PreconditionFailed
from shared.model.golden import require_same
from shared.model.manifest import ONNX_FILE, read_manifest
from shared.model.network.checkpoint import load_version_network
from shared.model.quantize import quantize_network
from shared.model.sessions.base import network_input
from shared.model.sessions.cuda import BoundRuns, in_half_precision
from shared.model.sessions.factory import require_device
from shared.model.sessions.onnx import OnnxSession
from shared.model.sessions.torch import TorchSession


def plain(model: Path | bytes) -> ort.InferenceSession:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_bound_runs_give_what_plain_runs_give_for_any_batch_in_any_order(
    narrow_version: Path, crops: NDArray[np.uint8]
) -> None:
    session = plain(narrow_version / ONNX_FILE)
    size = read_manifest(narrow_version).embedding_size
    bound = BoundRuns(session, "cpu", size)
    images = network_input(crops, "bgr")
    kept = []
    for batch in (images[:2], images[:1], images[1:2], images[::-1][:2], images[:2]):
        before = batch.copy()
        kept.append((bound(batch), session.run(None, {session.get_inputs()[0].name: before})[0]))
        np.testing.assert_array_equal(batch, before)
    for got, want in kept:
        np.testing.assert_array_equal(got, want)


def test_half_precision_takes_and_gives_float32_and_stays_near(
    narrow_version: Path, crops: NDArray[np.uint8]
) -> None:
    file = narrow_version / ONNX_FILE
    half = in_half_precision(file)
    assert len(half) < 0.75 * file.stat().st_size
    images = network_input(crops, "bgr")
    session, full = plain(half), plain(file)
    assert [each.type for each in (*session.get_inputs(), *session.get_outputs())] == [
        "tensor(float)"
    ] * 2
    name = full.get_inputs()[0].name
    want, got = (each.run(None, {name: images})[0] for each in (full, session))
    require_same("half precision", want, got, 5e-3)
    assert (want != got).any()


def test_a_quantized_network_is_not_halved(
    narrow_version: Path, crops: NDArray[np.uint8], tmp_path: Path
) -> None:
    file = tmp_path / "quantized.onnx"
    manifest = read_manifest(narrow_version)
    quantize_network(narrow_version / ONNX_FILE, manifest, crops, file)
    with pytest.raises(PreconditionFailed, match="quantized"):
        in_half_precision(file)


def test_torch_computes_without_tf32_and_leaves_the_setting_alone(
    narrow_version: Path, crops: NDArray[np.uint8]
) -> None:
    network = load_version_network(narrow_version)
    allowed: list[bool] = []
    network.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    TorchSession(network, "bgr").run(crops[:2])
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_half_precision_without_a_gpu_is_refused(narrow_version: Path) -> None:
    with pytest.raises(PreconditionFailed, match="device cuda-fp16 was requested"):
        require_device("onnxruntime", "cuda-fp16")
    with pytest.raises(PreconditionFailed, match="device cuda-fp16 was requested"):
        OnnxSession(narrow_version / ONNX_FILE, "bgr", device="cuda-fp16")
    with pytest.raises(PreconditionFailed, match="engine torch does not support"):
        require_device("torch", "cuda-fp16")
