"""The file with what served last."""

from pathlib import Path

import pytest

from services.embedder.models.decision_rule import FmrTarget
from services.embedder.rollout.last_served import LastServed, VersionAtTarget


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "last-served"


def test_what_was_written_is_read(file: Path) -> None:
    last_served = LastServed(file)
    assert last_served.read() is None
    for target in (FmrTarget(1e-3, 0.01), FmrTarget(prior=0.2), FmrTarget()):
        last_served.write(VersionAtTarget("v1", target))
        assert LastServed(file).read() == VersionAtTarget("v1", target)


def test_a_file_of_an_earlier_release_is_read_and_without_a_target_it_reads_ours(
    file: Path,
) -> None:
    file.parent.mkdir()
    file.write_text("iresnet18-1a2b3c4d\n")
    expected = VersionAtTarget("iresnet18-1a2b3c4d")
    assert LastServed(file).read() == expected
    LastServed(file).write(expected)
    assert file.read_text() == "iresnet18-1a2b3c4d"


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b'{"model_version": "v1", "target": {"target_fmr": NaN}}',
        b'{"model_version": "v1", "target": {"target_fmr": 0}}',
        b'{"model_version": "v1", "target": {"target_fmr": 0.2}}',
        b'{"model_version": "v1", "target": {"prior": 1}}',
        b'{"target": {"target_fmr": 0.001}}',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_damaged_file_is_no_version_at_a_threshold_of_its_own(file: Path, data: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(data)
    assert LastServed(file).read() is None
