import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import CorruptData
from shared.model.manifest import MANIFEST_FILE, ProbabilityCurve, quantiles_of, read_manifest
from tests.support.details import raises_with_details


def test_quality_is_the_place_among_the_reference_magnitudes(narrow_version: Path) -> None:
    manifest = read_manifest(narrow_version)
    assert manifest.magnitude_quantiles == (1.0, 2.0, 3.0)
    quality = manifest.quality(np.array([0.5, 1.0, 1.5, 2.0, 3.0, 9.0], np.float32))
    np.testing.assert_allclose(quality, [0, 0, 0.25, 0.5, 1, 1])
    assert quality.dtype == np.float32


def test_probability_rises_with_similarity_and_never_leaves_0_to_1() -> None:
    curve = ProbabilityCurve(slope=20, intercept=-6)
    probability = curve(np.array([-1e4, 0.0, 0.3, 0.35, 1e4]))
    np.testing.assert_allclose(probability, [0, 1 / (1 + np.exp(6)), 0.5, 1 / (1 + np.exp(-1)), 1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("magnitude_quantiles", [2.0, 1.0]),
        ("magnitude_quantiles", [0.0, 1.0]),
        ("magnitude_quantiles", [1.0, "NaN"]),
        ("magnitude_quantiles", [1.0]),
        ("probability", {"slope": "NaN", "intercept": 0.0}),
        ("threshold", 1.5),
        ("threshold", "NaN"),
        ("channel_order", "grey"),
        ("model_version", "../escape"),
        ("files", {"../escape": {"sha256": "0" * 64, "size": 1}}),
        ("files", {MANIFEST_FILE: {"sha256": "0" * 64, "size": 1}}),
        ("golden", []),
        ("format", 2),
        ("surprise", 1),
    ],
)
def test_a_manifest_that_breaks_its_format_is_corrupt_data(
    field: str, value: Any, narrow_version: Path, tmp_path: Path
) -> None:
    content = json.loads((narrow_version / MANIFEST_FILE).read_text())
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(content | {field: value}))
    with raises_with_details(CorruptData, match=field):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_a_manifest_that_cannot_be_read_is_corrupt_data(
    content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(
        CorruptData, match=r"manifest\.json (is not a valid manifest|cannot be read)"
    ):
        read_manifest(tmp_path)


def test_quantiles_rise_and_keep_their_ends() -> None:
    magnitudes = np.random.default_rng(0).normal(23, 3, 5000).astype(np.float32)
    quantiles = quantiles_of(magnitudes)
    assert len(quantiles) == 101
    assert list(quantiles) == sorted(quantiles)
    assert quantiles[0] == pytest.approx(float(magnitudes.min()))
    assert quantiles[50] == pytest.approx(float(np.median(magnitudes)), abs=1e-3)
    assert quantiles[-1] == pytest.approx(float(magnitudes.max()))


def test_at_the_even_similarity_both_answers_are_as_likely() -> None:
    curve = ProbabilityCurve(slope=12.0, intercept=-3.6)
    assert curve.even == pytest.approx(0.3)
    assert curve(np.array(curve.even)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("slope", "intercept", "even"),
    [(0.0, -1.0, 1.0), (-5.0, 1.0, 1.0), (1.0, -9.0, 1.0), (1, 9, -1)],
)
def test_the_even_similarity_of_any_curve_is_a_similarity(
    slope: float, intercept: float, even: float
) -> None:
    assert ProbabilityCurve(slope=slope, intercept=intercept).even == even
