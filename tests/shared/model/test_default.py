import hashlib
from pathlib import Path

import numpy as np
import pytest

from cli.rendering.bundled_crops import (
    groups_of_reference_people,
    render_golden_crops,
    render_reference_crops,
)
from shared.model.default import DEFAULT_CHECKPOINT, default_calibration
from shared.model.default.crops import (
    default_golden_crops,
    default_reference_crops,
    default_reference_groups,
)
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.base import split_features
from tests.shared.model.build_default import features, measure, read_faces


def test_the_bundled_network_loads_completely_and_is_small() -> None:
    checkpoint = load_checkpoint(DEFAULT_CHECKPOINT)
    assert checkpoint.entries == 187
    assert checkpoint.spec.name == "iresnet18w16"
    assert checkpoint.spec.embedding_size == 512
    assert DEFAULT_CHECKPOINT.stat().st_size < 20e6


def test_the_bundled_calibration_fits_the_network() -> None:
    calibration = default_calibration()
    assert calibration.channel_order == "bgr"
    assert 0.15 < calibration.threshold < 0.35
    assert len(calibration.magnitude_quantiles) == 101
    assert np.all(np.diff(calibration.magnitude_quantiles) >= 0)


def test_the_bundled_crops_never_change() -> None:
    """Published versions have embeddings of the golden crops; figures use the reference crops."""
    crops, persons = default_reference_crops()
    assert persons.tolist() == np.repeat(np.arange(64), 4).tolist()
    assert [
        hashlib.sha256(each.tobytes()).hexdigest() for each in (default_golden_crops(), crops)
    ] == [
        "55e16e23b7c891405888042f4d6466717b71a0eb66a42cfa6652ce7a0b40ee4d",
        "5c4a426211a9cd2319607aa192611fdabd5719ee6945cdc9e3297a68be44fc50",
    ]


def test_the_bundled_groups_are_those_of_the_bundled_people() -> None:
    groups = default_reference_groups()
    assert list(groups) == groups_of_reference_people()
    assert len(groups) == len(np.unique(default_reference_crops()[1]))


def test_the_renderer_still_draws_the_bundled_crops() -> None:
    """Equal on the machine they were made on; another CPU may differ by one level."""
    reference, persons = render_reference_crops()
    bundled_reference, bundled_persons = default_reference_crops()
    assert np.array_equal(persons, bundled_persons)
    for drawn, bundled in (
        (render_golden_crops(), default_golden_crops()),
        (reference, bundled_reference),
    ):
        assert drawn.shape == bundled.shape
        difference = np.abs(drawn.astype(np.int16) - bundled)
        assert difference.max() <= 1
        assert (difference != 0).mean() < 1e-3


@pytest.mark.slow
@pytest.mark.material
def test_the_bundled_network_is_as_good_as_its_readme_says(material: Path) -> None:
    crops, people = read_faces(material / "faces/lfw")
    raw = features(DEFAULT_CHECKPOINT, "bgr", crops)
    threshold, figures = measure(raw, people)
    assert threshold == pytest.approx(default_calibration().threshold, abs=0.005)
    assert figures["accuracy"] == pytest.approx(0.935, abs=0.002)
    assert figures["tar_at_far_1e-2"] == pytest.approx(0.805, abs=0.005)
    median = np.median(split_features(raw)[1])
    assert median == pytest.approx(default_calibration().magnitude_quantiles[50], abs=0.01)


@pytest.mark.material
def test_half_precision_changes_no_embedding(material: Path) -> None:
    crops, _ = read_faces(material / "faces/lfw")
    whole = material / "checkpoints/magface_iresnet18w16.pth"
    want, got = (
        split_features(features(file, "bgr", crops[::50]))[0].astype(np.float64)
        for file in (whole, DEFAULT_CHECKPOINT)
    )
    assert (want * got).sum(axis=1).min() > 0.9999
    checkpoint = load_checkpoint(whole)
    assert (checkpoint.entries, checkpoint.prefix, checkpoint.head) == (
        187,
        "features.module.",
        "fc.weight",
    )
