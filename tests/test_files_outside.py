"""Real processes with an empty home leave nothing outside the folders that they are given."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.rendering.renderer import write_people
from shared.model.default import DEFAULT_CHECKPOINT
from shared.settings import ObjectStoreSettings
from tests.support.processes import NOWHERE, REPOSITORY, ServiceProcess, service_environment

_SERVICES = ("embedder", "feedback", "trainer")
# What this process has set for itself must not keep the product from setting it.
_OWN = ("ORT_DISABLE_TELEMETRY", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, which has a folder for temporary files; both of the processes of the test."""
    for name in _OWN:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home" / "tmp").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "home" / "tmp"))
    return tmp_path / "home"


def _files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path != home / "tmp"]


def _run(arguments: Sequence[str], cwd: Path) -> None:
    subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'protos'}", "PEER_PORT": "1"},
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize("service", _SERVICES)
def test_a_service_writes_nothing_outside_its_folders(
    home: Path,
    tmp_path: Path,
    database_url: str,
    object_store_settings: ObjectStoreSettings,
    service: str,
) -> None:
    data = tmp_path / "data"
    environment = service_environment(
        database_url,
        object_store_settings,
        feedback_address=NOWHERE,
        cache_dir=data / "cache",
        work_dir=data / "work",
    )
    with ServiceProcess(f"services.{service}", tmp_path / "service", environment) as process:
        process.start()
        assert process.stop() == 0
    assert _files(home) == []
    assert [path for path in data.rglob("*") if "Microsoft" in path.parts] == []


_HEAVY = (
    "shared.model.sessions.onnx",
    "shared.model.quantize",
    "shared.model.export",
    "shared.evaluation.report.plots",
    "tests.benchmarks.serving.peers.network",
)


def test_no_module_writes_below_the_home_as_it_is_imported(home: Path, tmp_path: Path) -> None:
    imports = "; ".join(f"import {module}" for module in _HEAVY)
    _run(["-c", f"{imports}; import onnxruntime"], tmp_path)
    assert _files(home) == []


def test_an_evaluation_with_its_report_writes_its_output_alone(home: Path, tmp_path: Path) -> None:
    people, output = tmp_path / "people", tmp_path / "report"
    write_people(people, 4, 3, 7)
    model = ("--checkpoint", str(DEFAULT_CHECKPOINT))
    _run(
        [
            "-m",
            "cli",
            "evaluate",
            *model,
            "--pairs",
            str(people),
            "--sample",
            "12",
            "--out",
            str(output),
        ],
        tmp_path,
    )
    assert (output / "report.html").exists()
    assert _files(home) == []
    assert {path.name for path in tmp_path.iterdir()} == {"home", "people", "report"}
