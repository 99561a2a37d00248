import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from shared.errors import CorruptData, InvalidInput, PreconditionFailed
from shared.model.manifest import ONNX_FILE, WEIGHTS_FILE, read_manifest
from shared.model.sessions.base import Engine, split_features
from shared.model.sessions.cpu import cpu_threads
from shared.model.sessions.factory import open_session, require_device
from shared.model.sessions.onnx import OnnxSession
from tests.support.details import raises_with_details

ENGINES: tuple[Engine, ...] = ("onnxruntime", "torch")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def some_crops(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 112, 112, 3), np.uint8)


def relabel(version: Path, folder: Path, **fields: object) -> Path:
    """Copy a version and change fields of its manifest."""
    shutil.copytree(version, folder)
    read_manifest(folder).model_copy(update=fields).write(folder)
    return folder


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_both_engines_give_the_same(batch: int, narrow_version: Path) -> None:
    crops = some_crops(batch)
    onnx_, torch_ = (open_session(narrow_version, engine).run(crops) for engine in ENGINES)
    assert onnx_.dtype == torch_.dtype == np.float32
    assert onnx_.shape == (batch, 32)
    np.testing.assert_allclose(onnx_, torch_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_result_does_not_depend_on_its_batch(engine: Engine, narrow_version: Path) -> None:
    session, crops = open_session(narrow_version, engine), some_crops(3)
    one_by_one = np.concatenate([session.run(crops[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(session.run(crops), one_by_one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_manifest_decides_the_channel_order(
    engine: Engine, narrow_version: Path, tmp_path: Path
) -> None:
    crops = some_crops(2)
    bgr = open_session(narrow_version, engine)
    rgb = open_session(relabel(narrow_version, tmp_path / "x", channel_order="rgb"), engine)
    np.testing.assert_array_equal(rgb.run(crops[..., ::-1]), bgr.run(crops))
    assert np.abs(rgb.run(crops) - bgr.run(crops)).max() > 0.01


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, 112, 112, 3), np.uint8),
        np.zeros((112, 112, 3), np.uint8),
        np.zeros((1, 3, 112, 112), np.uint8),
        np.zeros((1, 112, 112, 3), np.float32),
    ],
)
def test_crops_of_another_kind_are_refused(
    engine: Engine, wrong: NDArray[np.uint8], narrow_version: Path
) -> None:
    with pytest.raises(InvalidInput, match="instead of uint8"):
        open_session(narrow_version, engine).run(wrong)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_session_says_what_it_is(engine: Engine, narrow_version: Path) -> None:
    session = open_session(narrow_version, engine, "cpu", threads=1)
    assert (session.engine, session.device, session.embedding_size) == (engine, "cpu", 32)


@no_gpu
@pytest.mark.parametrize("engine", ENGINES)
def test_a_gpu_that_is_not_there_is_an_error(engine: Engine, narrow_version: Path) -> None:
    with pytest.raises(PreconditionFailed, match="device cuda was requested"):
        open_session(narrow_version, engine, "cuda")
    with pytest.raises(PreconditionFailed, match="device cuda was requested"):
        require_device(engine, "cuda")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_cpu_is_always_there(engine: Engine) -> None:
    require_device(engine, "cpu")


def test_the_onnx_engine_runs_without_torch(narrow_version: Path) -> None:
    program = (
        "import sys, pathlib, numpy as np\n"
        "from shared.model.sessions.factory import open_session\n"
        "from shared.model.golden import check_golden\n"
        "from shared.model.manifest import read_manifest\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "check_golden(open_session(folder), read_manifest(folder))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(narrow_version)], check=True)


def test_sessions_that_share_threads_compute_what_others_do(
    narrow_version: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, pathlib, numpy as np\n"
        "from shared.model.sessions.factory import open_session, require_device\n"
        "from shared.model.sessions.onnx import share_threads\n"
        "share_threads(3)\n"
        "require_device('onnxruntime', 'cpu')\n"
        "before = len(list(pathlib.Path('/proc/self/task').glob('*')))\n"
        "sessions = [open_session(pathlib.Path(sys.argv[1]), threads=5) for _ in range(2)]\n"
        "assert len(list(pathlib.Path('/proc/self/task').glob('*'))) == before\n"
        "crops = np.load(sys.argv[2])\n"
        "np.save(sys.argv[3], [session.run(crops) for session in sessions])\n"
    )
    crops, found = some_crops(11), tmp_path / "found.npy"
    np.save(tmp_path / "crops.npy", crops)
    arguments = [str(narrow_version), str(tmp_path / "crops.npy"), str(found)]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
    wanted = open_session(narrow_version).run(crops)
    np.testing.assert_allclose(np.load(found), [wanted, wanted], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "content", [b"", b"no network", bytes(5000), None], ids=["empty", "text", "zeros", "absent"]
)
@pytest.mark.parametrize(("engine", "file"), [("onnxruntime", ONNX_FILE), ("torch", WEIGHTS_FILE)])
def test_a_damaged_network_is_corrupt_data(
    engine: Engine, file: str, content: bytes | None, narrow_version: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(narrow_version, tmp_path / "version")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with raises_with_details(CorruptData, match=re.escape(file)):
        open_session(folder, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_truncated_network_is_corrupt_data(
    engine: Engine, narrow_version: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(narrow_version, tmp_path / "version")
    for file in (ONNX_FILE, WEIGHTS_FILE):
        whole = (narrow_version / file).read_bytes()
        (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptData):
        open_session(folder, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_that_does_not_fit_its_manifest_is_corrupt_data(
    engine: Engine, narrow_version: Path, tmp_path: Path
) -> None:
    folder = relabel(narrow_version, tmp_path / "x", embedding_size=64)
    with pytest.raises(CorruptData, match="has embedding size 32, the manifest says 64"):
        open_session(folder, engine)


def test_a_network_of_another_signature_is_corrupt_data(tmp_path: Path) -> None:
    pixels = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 96, 96])
    same = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3, 96, 96])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [pixels], [same])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(CorruptData, match=r"96, 96.* instead of one float"):
        OnnxSession(tmp_path / "x.onnx", "bgr")


finite = st.floats(-1e6, 1e6, width=32).filter(lambda value: abs(value) > 1e-3)


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=finite))
def test_features_split_into_direction_and_length(raw: NDArray[np.float32]) -> None:
    embeddings, magnitudes = split_features(raw)
    assert embeddings.dtype == magnitudes.dtype == np.float32
    assert embeddings.shape == raw.shape
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(embeddings * magnitudes[:, None], raw, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_features_of_any_scale_keep_their_direction(scale: float) -> None:
    raw = np.array([[3, 4]], np.float32) * np.float32(scale)
    embeddings, magnitudes = split_features(raw)
    np.testing.assert_allclose(embeddings, [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(magnitudes, [5 * scale], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN"), (np.inf, "infinity"), (0.0, "all zeros")]
)
def test_an_unusable_row_is_named(value: float, what: str) -> None:
    raw = np.ones((4, 8), np.float32)
    raw[2] = value
    with pytest.raises(CorruptData, match=rf"row 2: .*{what}.*1 of 4"):
        split_features(raw)


def cgroup_root(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("membership", "files", "threads"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 8),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, 4),
        ("0::/host/only\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "5:memory:/m\n1:cpu,cpuacct:/c\n0::/\n",
            {"cpu/c/cpu.cfs_quota_us": "200000\n", "cpu/c/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        (
            "1:cpu:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
    ],
)
def test_threads_follow_the_cgroup_quota(
    membership: str, files: dict[str, str], threads: int, tmp_path: Path
) -> None:
    under = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert cpu_threads(cgroup_root(tmp_path, membership, under)) == threads


def test_threads_follow_the_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert cpu_threads(cgroup_root(tmp_path, "0::/\n", {})) == 1
