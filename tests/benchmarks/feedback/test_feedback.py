"""The feedback benchmark with tiny sizes."""

from pathlib import Path

import pytest

from tests.benchmarks.feedback.benchmark import Sizes, run


@pytest.mark.slow
def test_every_way_and_every_question_is_measured_at_each_size(tmp_path: Path) -> None:
    sizes = Sizes(stored=(300, 600), submitted=60, rounds=1, callers=8, calls=5)
    measured = run(tmp_path, sizes)
    at = measured["labels_stored"]
    assert isinstance(at, dict)
    assert list(at) == ["300", "600"]
    for figures in at.values():
        assert figures["asking"]["next_pairs"]["pairs_handed"] > 0
        assert figures["asking"]["export_pairs"]["pairs"] > 0
        assert all(speed > 0 for speed in figures["storing"]["labels_per_second"].values())
    assert measured["ratio"] == min(at["600"]["storing"]["ratios"].values())
