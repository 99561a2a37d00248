"""Tests of ``magface serve``."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shared.rpc.health import is_serving
from shared.settings import ObjectStoreSettings
from tests.cli.conftest import Magface
from tests.support.processes import free_port, service_environment
from tests.support.waiting import wait_until


class _Started(Exception):
    """In place of the program that the command becomes."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment of the service that a command starts in an empty folder."""
    found: dict[str, str] = {}

    def become(_: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        found.update(environment, module=arguments[-1])
        raise _Started

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", become)
    for name in ("LISTEN", "EMBEDDER_ADDRESS", "FEEDBACK_ADDRESS"):
        monkeypatch.delenv(f"MAGFACE_{name}", raising=False)
    return found


@pytest.mark.parametrize(
    ("service", "port"), [("embedder", 50051), ("feedback", 50052), ("trainer", 50053)]
)
def test_each_service_has_its_port_and_knows_the_others(
    magface: Magface, started: dict[str, str], service: str, port: int
) -> None:
    magface("serve", service)
    assert started["module"] == f"services.{service}"
    assert started["MAGFACE_LISTEN"] == f"127.0.0.1:{port}"
    assert started["MAGFACE_EMBEDDER_ADDRESS"] == "127.0.0.1:50051"
    assert started["MAGFACE_FEEDBACK_ADDRESS"] == "127.0.0.1:50052"


def test_what_is_set_elsewhere_is_kept(
    magface: Magface,
    started: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / ".env").write_text("MAGFACE_LISTEN=0.0.0.0:7000\n")
    monkeypatch.setenv("MAGFACE_FEEDBACK_ADDRESS", "elsewhere:1")
    magface("serve", "trainer")
    # The service reads the file itself.
    assert "MAGFACE_LISTEN" not in started
    assert started["MAGFACE_FEEDBACK_ADDRESS"] == "elsewhere:1"
    magface("serve", "trainer", "--listen", "127.0.0.1:7001")
    assert started["MAGFACE_LISTEN"] == "127.0.0.1:7001"
    assert "MAGFACE_INSECURE" not in started
    magface("serve", "trainer", "--insecure")
    assert started["MAGFACE_INSECURE"] == "true"


def test_a_service_serves_on_stores_of_ones_own_until_it_is_stopped(
    database_url: str, object_store_settings: ObjectStoreSettings
) -> None:
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "serve", "feedback", "--listen", address],
        env=os.environ | service_environment(database_url, object_store_settings),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: is_serving(address) or process.poll() is not None, 60)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_has_a_short_option(magface: Magface, option: str) -> None:
    assert magface("models", "promote", option).stdout.startswith("Usage: ")


def test_the_version_is_shown(magface: Magface) -> None:
    result = magface("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("magface 0.")
