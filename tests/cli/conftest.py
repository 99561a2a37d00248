"""Fixtures of the CLI tests: a stack of real services on SeaweedFS, and sample images."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import psycopg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from cli.rendering.renderer import write_people
from deploy.local.endpoints import Endpoints
from deploy.local.stack import Stack
from shared.storage.objects import ObjectStore

Magface = Callable[..., Result]
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def magface(monkeypatch: pytest.MonkeyPatch) -> Magface:
    """Runs a command in this process, without service addresses in the environment."""
    for service in ("EMBEDDER", "FEEDBACK", "TRAINER"):
        monkeypatch.delenv(f"MAGFACE_{service}_ADDRESS", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def endpoints(stack: Stack) -> Endpoints:
    found = Endpoints.read(stack.folder)
    assert found is not None
    return found


@pytest.fixture
def objects(endpoints: Endpoints) -> ObjectStore:
    return ObjectStore(endpoints.s3.settings())


@pytest.fixture
def held_erasure(endpoints: Endpoints) -> Iterator[None]:
    """An erasure of 576 images by a rule that the stack does not have."""
    with psycopg.connect(endpoints.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO feedback.held_erasures (rule, images, before)"
            " VALUES ('retention', 576, '2025-11-30')"
        )
        yield
        connection.execute("DELETE FROM feedback.held_erasures")


@pytest.fixture
def ask(magface: Magface, stack: Stack) -> Ask:
    """Runs a command on the stack with --json, and returns the object that it prints."""

    def ask(*arguments: object) -> dict[str, Any]:
        result = magface(*arguments, "--dir", stack.folder, "--json")
        assert result.exit_code == 0, result.stderr
        answer = json.loads(result.stdout)
        assert isinstance(answer, dict)
        return answer

    return ask


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per rendered person, with three images each."""
    folder = tmp_path_factory.mktemp("people")
    write_people(folder, 4, 3, 7)
    return folder


@pytest.fixture
def pictures(people: Path) -> list[Path]:
    """Two images of one person, then one of another person."""
    first, second = sorted(path for path in people.iterdir() if path.is_dir())[:2]
    return [*sorted(first.iterdir())[:2], sorted(second.iterdir())[0]]


@pytest.fixture
def large_picture(pictures: list[Path], tmp_path: Path) -> Path:
    """An image that is not 112x112, in which YuNet finds no face."""
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(pictures[0]))[:30, :40], (300, 200)))
    return path
