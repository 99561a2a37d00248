"""Parts of the full-size benchmark, and all of it with a narrow network."""

import re
from pathlib import Path

import pytest

from shared.errors import PreconditionFailed, Unavailable
from shared.model.network.checkpoint import load_checkpoint
from tests.benchmarks.full_size import benchmark
from tests.benchmarks.full_size.child import run_in_child
from tests.benchmarks.full_size.networks import NARROW, OFFICIAL, Network, write_checkpoint
from tests.benchmarks.full_size.projection import on_idle_processors, projected_stages
from tests.benchmarks.full_size.steps import FORMATS

EXPECTED = {
    "decoding": 7.0,
    "embedding": 112.0,
    "checking labels": 4 * 28 * 2.0 + 200.0,
    "training": 8 * (40.0 + 10.0),
    "evaluating": 92.0,
    "exporting": 60.0,
    "swapping": 4.0,
    "total": 1099.0,
}
SESSION = {"open_s": 3.0, "check_s": 1.0}
SERVING = {"engine": "onnxruntime", "device": "cpu", "batches": [1], "seconds": 0.0}


def test_a_written_checkpoint_is_read_as_an_official_one(tmp_path: Path) -> None:
    narrow = Network("iresnet100", NARROW.widths)
    read = load_checkpoint(write_checkpoint(narrow, tmp_path / "made.pth"))
    assert read.prefix == "features.module."
    assert read.network.spec.blocks == (3, 13, 30, 3)
    assert [network.name for network in OFFICIAL] == ["iresnet50", "iresnet100"]


def test_the_projection_is_the_sum_of_its_stages() -> None:
    steps = {
        "decode_s": 7.0,
        "threads": 2,
        "seconds_an_image": 0.1,
        "processor_seconds_an_image": 0.1,
        "seconds_a_step": 2.0,
        "processor_seconds_a_step": 3.0,
        "epochs": 8,
        "images": 1000,
        "steps_an_epoch": 20,
        "steps_of_all_images": 28,
        "validation_images": 100,
        "step_back_images": 600,
        "evaluated_images": 200,
        "reference_images": 120,
    }
    found = projected_stages(steps, {"export_s": 60.0}, SESSION)
    assert found == pytest.approx(EXPECTED)
    idle = projected_stages(on_idle_processors(steps), {"export_s": 60.0}, SESSION)
    assert idle["training"] == pytest.approx(8 * (20 * 1.5 + 100 * 0.05))


@pytest.mark.parametrize(
    ("name", "most", "told"),
    [("MOST_BYTES", 1e18, "of memory, and"), ("_DISK_BYTES", 1e18, "below .* are free")],
)
def test_too_little_memory_or_disk_is_refused_with_a_sentence(
    name: str, most: float, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, name, most)
    with pytest.raises(PreconditionFailed, match=f"the benchmark needs .*{told}"):
        benchmark.require_room(tmp_path)


def test_a_failed_child_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the task serve exited with 1"):
        run_in_child("serve", **SERVING, version=str(tmp_path / "none"))


@pytest.mark.slow
def test_a_dry_run_measures_everything_and_stores_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = benchmark.run(tmp_path, dry_run=True)
    rows = found["networks"][NARROW.name]
    assert set(rows) == {"export", "serving, cpu", "job", *map(str, FORMATS)}
    for kind in map(str, FORMATS):
        assert rows[kind]["seconds_a_step"] > 0
        assert rows[kind]["steps_measured"] == 1
        assert len(rows[kind]["losses"]) == 2
        assert rows[kind]["projected_s"]["total"] > 0
    assert rows["job"]["self_check"]
    assert {"training", "exporting the candidate"} <= set(rows["job"]["stages"])
    assert set(rows["serving, cpu"]["images_per_second"]) == {"1", "2", "8"}
    assert found["most_bytes"]["value"] > 0
    table = capsys.readouterr().out
    assert len(re.findall(rf"^\| {NARROW.name} \| ", table, re.MULTILINE)) == len(FORMATS) + 3
    held = bytearray(800_000_000)
    held[::4096] = b"1" * len(held[::4096])
    served = run_in_child(
        "serve", **SERVING, version=str(tmp_path / "full-size-versions" / NARROW.name)
    )
    # A session of onnxruntime, without the memory of the process that started it.
    assert 5e7 < served["peak_bytes"] < len(held)
    # What is stored is not measured again.
    monkeypatch.setattr(benchmark, "_run_here", None)
    assert benchmark.run(tmp_path, dry_run=True)["networks"] == found["networks"]
