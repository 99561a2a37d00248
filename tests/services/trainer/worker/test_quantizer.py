"""Quantized versions: their files, their calibration and their figures."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import onnx
import pytest

from services.trainer.data.labels import LabelledPair
from services.trainer.data.reference_faces import ReferenceFaces, default_reference
from services.trainer.evaluation.quantized_gate import MAX_LOSS
from services.trainer.progress import Progress, Stage
from services.trainer.worker.quantizer import QuantizedVersion, quantize_version
from shared.model.golden import check_golden
from shared.model.manifest import ONNX_FILE, WEIGHTS_FILE, ProbabilityCurve, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.base import split_features
from shared.model.sessions.factory import open_session
from tests.default_version import export_default
from tests.services.trainer.feedback import Rendered
from tests.support.operating_curve import curve_at

pytestmark = pytest.mark.slow

JOB = UUID("4f2a91c0-0000-0000-0000-000000000000")


class NoFeedback(Rendered):
    def __init__(self) -> None:
        super().__init__(range(0), 2)

    def pairs(self) -> Iterator[LabelledPair]:
        return iter(())


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_default(tmp_path_factory.mktemp("full") / "full")


@pytest.fixture(scope="module")
def reference() -> ReferenceFaces:
    faces = default_reference()
    people = len(np.unique(faces.persons))
    return replace(faces, sha256="a" * 64, groups=("even", "odd") * (people // 2))


def quantize(
    full: Path, reference: ReferenceFaces, workdir: Path, **changes: object
) -> QuantizedVersion:
    workdir.mkdir(exist_ok=True)
    reported: list[Progress] = []
    given = {"feedback": NoFeedback(), "report": reported.append} | changes
    made = quantize_version(full, JOB, reference=reference, workdir=workdir, **given)
    fractions = [progress.fraction for progress in reported]
    assert fractions == sorted(fractions)
    stages = list(dict.fromkeys(progress.stage for progress in reported))
    decoding = [Stage.DECODING_IMAGES] if "feedback" in changes else []
    assert stages == [
        *(*decoding, Stage.QUANTIZING, Stage.CALIBRATING, Stage.EVALUATING, Stage.EXPORTING)
    ]
    return made


@pytest.fixture(scope="module")
def quantized(
    full: Path, reference: ReferenceFaces, tmp_path_factory: pytest.TempPathFactory
) -> QuantizedVersion:
    return quantize(full, reference, tmp_path_factory.mktemp("quantized"))


def test_the_default_in_eight_bits_passes_and_is_a_version_of_its_own(
    full: Path, quantized: QuantizedVersion
):
    assert quantized.gate.passed, quantized.gate
    parent, manifest = read_manifest(full), read_manifest(quantized.folder)
    assert manifest.model_version == quantized.folder.name == "iresnet18w16-int8-4f2a91c0"
    assert (manifest.parent_version, manifest.compatible_versions) == ("full", ("full",))
    assert manifest.architecture == parent.architecture
    assert manifest.reference == "a" * 64
    check_golden(open_session(quantized.folder), manifest)
    assert manifest.golden[0].png == parent.golden[0].png
    assert manifest.golden[0].embedding != parent.golden[0].embedding


def test_the_thresholds_and_the_probability_move_together(
    full: Path, reference: ReferenceFaces, quantized: QuantizedVersion, tmp_path: Path
):
    parent, manifest = read_manifest(full), read_manifest(quantized.folder)
    assert 0 < abs(manifest.threshold - parent.threshold) < 0.02
    assert manifest.probability is None
    curve = ProbabilityCurve(slope=20.0, intercept=-20.0 * parent.threshold)
    assert curve.even == pytest.approx(parent.threshold)
    likely = tmp_path / "likely"
    shutil.copytree(full, likely)
    at_target = {"probability": curve, "operating_curve": curve_at((0.1, 0.6))}
    parent.model_copy(update=at_target).write(likely)
    made = quantize(likely, reference, tmp_path / "work", target_fmr=0.1)
    moved = read_manifest(made.folder)
    assert moved.probability is not None
    assert moved.probability.even == pytest.approx(manifest.threshold, abs=1e-6)
    point = moved.kept_point(0.1)
    assert point is not None
    assert 0 < abs(point.threshold - 0.6) < 0.05
    assert made.gate.target_fmr == 0.1
    checks = {check.name: check for check in made.gate.checks}
    assert checks["reference_fmr"].passed
    assert checks["reference_fmr"].pairs > 1000
    rise = checks["reference_fnmr"]
    assert rise.low is not None
    assert rise.passed == (rise.low <= MAX_LOSS)
    assert abs(rise.value) < 0.05


def test_its_convolutions_compute_in_whole_numbers(full: Path, quantized: QuantizedVersion):
    graph = onnx.load(quantized.folder / ONNX_FILE).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    feeding = Counter(
        made_by.get(node.input[0]) for node in graph.node if node.op_type in ("Conv", "Gemm")
    )
    assert feeding == {"DequantizeLinear": 22}
    sizes = [(folder / ONNX_FILE).stat().st_size for folder in (quantized.folder, full)]
    assert sizes[0] < sizes[1] / 3


def test_it_keeps_the_weights_so_that_it_can_be_trained_on(full: Path, quantized: QuantizedVersion):
    assert (
        read_manifest(quantized.folder).files[WEIGHTS_FILE]
        == read_manifest(full).files[WEIGHTS_FILE]
    )
    assert load_checkpoint(quantized.folder / WEIGHTS_FILE).spec.name == "iresnet18w16"


def test_its_verdict_and_manifest_hold_what_was_measured(
    full: Path, reference: ReferenceFaces, quantized: QuantizedVersion
):
    metrics = read_manifest(quantized.folder).metrics
    before, after = (
        split_features(open_session(folder).run(reference.crops))[0]
        for folder in (full, quantized.folder)
    )
    cosine = (before * after).sum(axis=1)
    # Measured on half of these faces.
    assert cosine.min() - 1e-6 <= metrics["cosine_min"] <= metrics["cosine_mean"] <= 1
    assert metrics["cosine_mean"] == pytest.approx(cosine.mean(), abs=0.003)
    checks = {check.name: check for check in quantized.gate.checks}
    assert set(checks) == {
        *("reference_loss", "compatibility_loss", "embedding_cosine", "self_check"),
        "group_errors",
    }
    loss = metrics["quantized_error"] - metrics["full_error"]
    assert checks["reference_loss"].value == pytest.approx(loss)


def test_the_same_job_makes_the_same_version_again(
    full: Path, reference: ReferenceFaces, quantized: QuantizedVersion, tmp_path: Path
):
    again = quantize(full, reference, tmp_path)
    mine, theirs = read_manifest(again.folder), read_manifest(quantized.folder)
    assert mine.model_dump(exclude={"created_at"}) == theirs.model_dump(exclude={"created_at"})


def test_it_is_measured_on_the_feedback_too(full: Path, reference: ReferenceFaces, tmp_path: Path):
    feedback = Rendered(range(8), 3)
    made = quantize(full, reference, tmp_path, feedback=feedback)
    metrics = read_manifest(made.folder).metrics
    pairs = list(feedback.pairs())
    assert metrics["feedback_pairs"] == len(pairs)
    import cv2

    def wrong(folder: Path) -> float:
        session, threshold = open_session(folder), read_manifest(folder).threshold
        found = []
        for pair in pairs:
            faces = [feedback.image(sha).data for sha in (pair.sha256_a, pair.sha256_b)]
            crops = np.stack([cv2.imdecode(np.frombuffer(each, np.uint8), 1) for each in faces])
            left, right = split_features(session.run(crops))[0]
            found.append((left @ right >= threshold) != pair.same)
        return float(np.mean(found))

    assert metrics["feedback_full_error"] == pytest.approx(wrong(full))
    assert metrics["feedback_quantized_error"] == pytest.approx(wrong(made.folder))
