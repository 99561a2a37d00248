"""The dry run of the GPU benchmark, which takes the same steps on the CPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks.gpu import benchmark


@pytest.mark.parametrize("left_out", ["job", pytest.param("", marks=pytest.mark.slow)])
def test_a_dry_run_takes_every_step_and_writes_its_figures(
    left_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections_of = benchmark._sections

    def some_sections(plan: benchmark.GpuPlan, out: Path) -> dict[str, Any]:
        return {k: v for k, v in sections_of(plan, out).items() if k != left_out}

    monkeypatch.setattr(benchmark, "_sections", some_sections)
    monkeypatch.setattr(command, "_OUT", tmp_path)
    command.main(["--dry-run", "gpu"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found) == {"dry_run", "gpu", "machine", "sections", "failed", "seconds", "table"}
    assert (found["dry_run"], found["gpu"], found["failed"]) == (True, None, [])
    assert found["seconds"]["held"]
    sections = found["sections"]
    assert {*sections, "job"} == {
        "version",
        "training, bfloat16, channels last",
        "serving, onnxruntime, cpu",
        "serving, torch, cpu",
        "binding",
        "swap, cpu",
        "job",
    }
    assert sections["version"]["export_s"] > 0
    assert sections["training, bfloat16, channels last"]["steps_measured"] == 1
    for engine in ("onnxruntime", "torch"):
        speeds = sections[f"serving, {engine}, cpu"]["images_per_second"]
        assert min(speeds[batch] for batch in ("1", "2")) > 0
    bound = sections["binding"]["images_per_second"]
    assert {numbers: set(runs) for numbers, runs in bound.items()} == {
        "float32": {"plain", "bound"},
        "float16": {"plain", "bound"},
    }
    swap = sections["swap, cpu"]
    assert (swap["failed"], swap["mixed"], swap["wrong"], swap["swaps"]) == (0, 0, 0, 4)
    assert swap["answers"] > 0
    assert left_out or sections["job"]["self_check"]
    for name in sections:
        assert f"| {name} | " in found["table"]


def test_a_part_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> dict[str, object]:
        raise ValueError("cuDNN is missing")

    monkeypatch.setattr(
        benchmark, "_sections", lambda *_: {"first": fail, "second": lambda: {"export_s": 1.0}}
    )
    found = benchmark.run(tmp_path, dry_run=True)
    assert found["failed"] == ["first"]
    assert found["sections"]["first"]["error"] == "ValueError: cuDNN is missing"
    assert found["sections"]["second"]["export_s"] == 1.0
    monkeypatch.setattr(benchmark, "_LAST_START_S", -1.0)
    assert benchmark.run(tmp_path, dry_run=True)["failed"] == ["first", "second"]


def test_a_failed_part_makes_the_command_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_OUT", tmp_path)
    monkeypatch.setattr(benchmark, "_sections", lambda *_: {"first": dict[str, object]().popitem})
    with pytest.raises(SystemExit, match="gpu: failed: first"):
        command.main(["--dry-run", "gpu"])
    assert json.loads((tmp_path / "gpu.json").read_text())["failed"] == ["first"]
    with pytest.raises(SystemExit, match="only these have a dry run"):
        command.main(["--dry-run", "sessions"])
