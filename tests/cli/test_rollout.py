"""Tests of ``magface models rollout`` and of ``--wait``."""

from tests.cli.conftest import Ask, Magface


def test_a_promotion_waits_until_every_embedder_serves_it(
    ask: Ask, magface: Magface, stack
) -> None:
    listed = ask("models", "list")
    [serving] = [model for model in listed["models"] if model["serving"]]
    version = serving["model_version"]
    promoted = ask("models", "promote", version, "--reason", "again", "--wait")
    [replica] = promoted["replicas"]
    assert (replica["model_version"], replica["generation"]) == (
        version,
        listed["serving_generation"],
    )
    rollout = ask("models", "rollout")
    assert (rollout["complete"], rollout["model_version"]) == (True, version)
    assert [each["instance"] for each in rollout["replicas"]] == [replica["instance"]]
    shown = magface("models", "rollout", "--dir", stack.folder)
    assert "up to date" in shown.stdout
