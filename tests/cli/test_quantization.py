"""Tests of ``magface models quantize``."""

import pytest

from tests.cli.conftest import Ask, Magface

pytestmark = pytest.mark.slow


def test_a_quantized_version_is_judged_shown_and_promoted(
    ask: Ask, magface: Magface, stack, pictures
) -> None:
    [serving] = [model for model in ask("models", "list")["models"] if model["serving"]]
    answer = ask("models", "quantize")
    assert (answer["job"]["kind"], answer["job"]["state"]) == ("quantize", "succeeded")
    assert answer["job"]["gate"]["passed"], answer["job"]
    assert "until it is promoted" in answer["job"]["message"]
    version = answer["model_version"]
    (shown,) = [m for m in ask("models", "list")["models"] if m["model_version"] == version]
    assert (shown["parent_version"], shown["serving"]) == (serving["model_version"], False)
    assert shown["gate"] == answer["job"]["gate"]

    full = ask("verify", *pictures[:2])
    promoted = ask("models", "promote", version, "--reason", "faster", "--wait")
    try:
        assert [replica["model_version"] for replica in promoted["replicas"]] == [version]
        quantized = ask("verify", *pictures[:2])
        assert quantized["model_version"] == version
        assert quantized["similarity"] == pytest.approx(full["similarity"], abs=0.05)
        assert quantized["similarity"] != full["similarity"]
    finally:
        ask("models", "rollback", "--reason", "tried", "--wait")

    again = magface("models", "quantize", version, "--dir", stack.folder)
    assert again.exit_code == 1
    assert f"{version} is already quantized" in again.stderr
