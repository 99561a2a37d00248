"""Evaluation of versions on the feedback."""

import hashlib
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from services.trainer.data.labels import LabelledPair, images_of
from services.trainer.data.left_out import LeftOutReason
from services.trainer.evaluation.feedback_evaluation import evaluate_versions
from services.trainer.progress import Progress, Stage
from shared.errors import NotFound, PreconditionFailed
from shared.model.image.face import FaceImage
from shared.model.sessions.factory import open_session
from tests.default_version import export_default
from tests.services.trainer.feedback import Rendered


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One network as two versions: a strict threshold, and one that accepts every pair."""
    folder = tmp_path_factory.mktemp("versions")
    return (
        export_default(folder / "strict", threshold=0.4),
        export_default(folder / "blind", threshold=-1.0),
    )


class Damaged(Rendered):
    """Feedback with one image that was erased, one that cannot be read and one without a face."""

    def __init__(self) -> None:
        super().__init__(range(8), 3)
        self.images = sorted(images_of(self.pairs()))
        self.lost = {
            self.images[0]: LeftOutReason.ERASED,
            self.images[1]: LeftOutReason.UNREADABLE,
            self.images[2]: LeftOutReason.NO_FACE,
        }

    def image(self, sha256: str) -> FaceImage:
        if sha256 == self.images[0]:
            raise NotFound(sha256)
        if sha256 == self.images[1]:
            return FaceImage(b"no picture", "aligned")
        if sha256 == self.images[2]:
            noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
            return FaceImage(cv2.imencode(".png", noise)[1].tobytes(), "aligned")
        return super().image(sha256)


def test_a_version_is_measured_at_its_own_threshold_beside_another(
    versions: tuple[Path, Path], tmp_path: Path
):
    feedback = Rendered(range(8), 3)
    pairs = list(feedback.pairs())
    reported: list[Progress] = []
    strict, blind = versions
    result, page, left_out = evaluate_versions(
        strict,
        blind,
        feedback=feedback,
        trained_on=frozenset({pairs[0].sha256_a}),
        workdir=tmp_path,
        report=reported.append,
    )
    assert left_out.describe() == ""
    assert (result.model_version, result.data_snapshot) == ("strict", "snapshot-1")
    figures = result.evaluation
    assert (figures.images, figures.pairs, figures.threshold) == (24, len(pairs), 0.4)
    session = open_session(strict)
    right = 0
    for pair in pairs:
        faces = [feedback.image(sha) for sha in (pair.sha256_a, pair.sha256_b)]
        crops = np.stack([_decode(face) for face in faces])
        left, right_side = session.run(crops)
        cosine = left @ right_side / np.linalg.norm(left) / np.linalg.norm(right_side)
        right += (cosine >= 0.4) == pair.same
    assert figures.tp + figures.tn == right
    assert result.against is not None
    blind_figures = result.against.evaluation
    assert (blind_figures.fn, blind_figures.tn) == (0, 0)
    test = result.against.comparison.mcnemar
    assert test.fixed - test.broken == right - blind_figures.tp
    expected = sum(pairs[0].sha256_a in (pair.sha256_a, pair.sha256_b) for pair in pairs)
    assert result.pairs_trained_on == expected >= 1
    text = page.read_text("utf-8")
    assert "Against blind" in text
    assert "data:image/jpeg" in text
    fractions = [progress.fraction for progress in reported]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    assert list(dict.fromkeys(progress.stage for progress in reported)) == [
        *(Stage.DECODING_IMAGES, Stage.EMBEDDING, Stage.EVALUATING, Stage.REPORTING)
    ]


def _decode(face: FaceImage) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(face.data, np.uint8), cv2.IMREAD_COLOR)


def test_pairs_whose_images_are_gone_are_left_out(versions: tuple[Path, Path], tmp_path: Path):
    feedback = Damaged()
    lost = set(feedback.lost)
    left = [p for p in feedback.pairs() if not lost & {p.sha256_a, p.sha256_b}]
    result, _, left_out = evaluate_versions(
        versions[0],
        None,
        feedback=feedback,
        trained_on=frozenset(),
        workdir=tmp_path,
        report=lambda _: None,
    )
    labelled = len(list(feedback.pairs()))
    assert result.evaluation.pairs == len(left) < labelled
    assert {one.sha256: one.reason for one in left_out.images} == feedback.lost
    assert (left_out.of_images, left_out.of_pairs) == (24, labelled)
    assert left_out.pairs == labelled - len(left)
    assert result.against is None
    assert result.pairs_trained_on == 0


def test_frames_of_one_picture_are_not_measured_on(versions: tuple[Path, Path], tmp_path: Path):
    feedback = Rendered(range(8), 3)
    plain = len(list(feedback.pairs()))
    feedback.add_copies(person=3, count=40)
    result, _, left_out = evaluate_versions(
        versions[0],
        None,
        feedback=feedback,
        trained_on=frozenset(),
        workdir=tmp_path,
        report=lambda _: None,
    )
    assert result.evaluation.pairs == plain
    assert len(left_out.repeated) == left_out.repeated_pairs == 40
    assert re.search(
        r"^40 images are near-identical to others of the person \(.{9}, .{9}, .{9}, …\) and "
        r"count as one picture with them; 40 pairs are not measured$",
        left_out.describe(),
    )


def test_feedback_without_a_usable_pair_is_refused(versions: tuple[Path, Path], tmp_path: Path):
    class Empty:
        snapshot_id = "snapshot-0"

        def pairs(self):
            gone = [hashlib.sha256(text).hexdigest() for text in (b"a", b"b")]
            return iter([LabelledPair(*gone, same=True)])

        def image(self, sha256: str) -> FaceImage:
            raise NotFound(sha256)

    with pytest.raises(PreconditionFailed, match=r"1 pairs .* none whose images can be read"):
        evaluate_versions(
            versions[0],
            None,
            feedback=Empty(),
            trained_on=frozenset(),
            workdir=tmp_path,
            report=lambda _: None,
        )
