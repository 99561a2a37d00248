"""Tests of ``magface feedback held-erasures`` and ``approve-erasure``."""

import pytest

from deploy.local.stack import Stack
from tests.cli.conftest import Ask, Magface


@pytest.mark.usefixtures("held_erasure")
def test_what_is_held_is_listed_and_approved(ask: Ask, magface: Magface, stack: Stack) -> None:
    (held,) = ask("feedback", "held-erasures")["erasures"]
    assert (held["rule"], held["images"], held["approved_by"]) == ("retention", 576, "")
    approve = ("feedback", "approve-erasure", "retention", "--by", "ann", "--images")
    wrong = magface(*approve, 575, "--dir", stack.folder)
    assert wrong.exit_code == 1
    assert "576 images wait for approval now, not 575" in wrong.stderr
    assert ask(*approve, 576)["approved_by"] == "ann"
    shown = magface("feedback", "held-erasures", "--dir", stack.folder).stdout
    for part in ("retention", "576", "2025-11-30", "ann"):
        assert part in shown


def test_nothing_is_held_of_a_rule_that_takes_little(magface: Magface, stack: Stack) -> None:
    approve = ("feedback", "approve-erasure", "orphans", "--images", 1, "--by", "ann")
    result = magface(*approve, "--dir", stack.folder)
    assert result.exit_code == 1
    assert "no erasure by 'orphans' waits for approval" in result.stderr


def test_an_image_that_was_not_erased_need_not_be_allowed(ask: Ask) -> None:
    answer = ask("feedback", "allow-image", "ab" * 32, "--by", "ann")
    assert answer == {"was_refused": False}
