"""Judging a candidate again: whom it is measured on, and the new verdict."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from services.trainer.data.labels import LabelledPair
from services.trainer.data.reference_faces import default_reference
from services.trainer.evaluation.gate import GateOutcome
from services.trainer.worker.judgement import UnseenPeople, judge_version
from shared.errors import PreconditionFailed
from shared.model.image.face import FaceImage
from tests.default_version import export_default
from tests.services.trainer.feedback import Rendered


class Labels:
    snapshot_id = "later"

    def __init__(self, *pairs: LabelledPair) -> None:
        self._pairs = pairs

    def pairs(self) -> Iterator[LabelledPair]:
        return iter(self._pairs)

    def image(self, sha256: str) -> FaceImage:
        raise AssertionError(sha256)


def label(a: str, b: str, same: bool) -> LabelledPair:
    return LabelledPair(a, b, same)


def test_whoever_shares_an_image_or_a_label_with_the_training_is_left_out() -> None:
    labels = Labels(
        label("trained", "later", same=True),
        label("later", "much later", same=True),
        label("held out", "held out too", same=True),
        label("new", "new too", same=True),
        label("new", "held out", same=False),
        label("new", "trained", same=False),
        label("new too", "much later", same=False),
    )
    unseen = UnseenPeople(labels, frozenset({"trained"}))
    assert {(pair.sha256_a, pair.sha256_b) for pair in unseen.pairs()} == {
        ("held out", "held out too"),
        ("new", "new too"),
        ("new", "held out"),
    }


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_default(tmp_path_factory.mktemp("versions") / "iresnet18w16-default")


@pytest.mark.parametrize("target", [1e-2, None])
def test_a_version_gains_nothing_over_itself(
    version: Path, tmp_path: Path, target: float | None
) -> None:
    judged = judge_version(
        version,
        version,
        feedback=UnseenPeople(Rendered(range(16), 3), frozenset()),
        reference=default_reference(),
        target_fmr=target,
        seed=0,
        workdir=tmp_path,
        report=lambda _: None,
    )
    checks = {check.name: check for check in judged.gate.checks}
    assert judged.gate.outcome is GateOutcome.FAILED
    assert judged.gate.target_fmr == target
    assert [name for name, check in checks.items() if not check.passed] == ["heldout_gain"]
    assert checks["heldout_gain"].value == 0
    assert checks["self_check"].passed
    # The skin tones of the bundled people.
    rates = ["group_errors"] if target is None else ["group_fnmr", "group_fmr"]
    assert [name for name in checks if name.startswith("group_")] == rates
    assert all(" skin'" in checks[name].detail for name in rates)
    assert judged.people == checks["heldout_people"].value == 16
    # Every two images of two people are a pair.
    impostors = list(combinations(np.repeat(np.arange(16), 3), 2))
    assert checks["heldout_fmr"].pairs == sum(a != b for a, b in impostors)


def test_no_new_people_are_a_clear_refusal(version: Path, tmp_path: Path) -> None:
    feedback = Rendered(range(3), 2)
    trained = frozenset(pair.sha256_a for pair in feedback.pairs())
    with pytest.raises(PreconditionFailed, match="label pairs of other people first"):
        judge_version(
            version,
            version,
            feedback=UnseenPeople(feedback, trained),
            reference=default_reference(),
            target_fmr=None,
            seed=0,
            workdir=tmp_path,
            report=lambda _: None,
        )
