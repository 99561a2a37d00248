"""Services of this commit on the database and the objects of an older one; see README.md."""

import gzip
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from cli.main import app
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.support.processes import ServiceProcess, service_environment
from tests.support.seaweedfs import SeaweedServer
from tests.support.waiting import wait_until

DATA = Path(__file__).with_name("data")
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())


@dataclass(frozen=True)
class Installation:
    """The running services, and what a test needs of them."""

    database_url: str
    environment: dict[str, str]
    pictures: list[Path]

    def ask(self, *arguments: object) -> dict[str, Any]:
        """Run a command with --json, and give the object that it prints."""
        command = [str(argument) for argument in (*arguments, "--json")]
        result = CliRunner().invoke(app, command, env=self.environment)
        assert result.exit_code == 0, result.stderr
        answer = json.loads(result.stdout)
        assert isinstance(answer, dict)
        return answer


@pytest.fixture(scope="module")
def installation(
    make_database: Callable[[], str],
    seaweedfs: SeaweedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("previous")
    database_url = make_database()
    _restore_database(database_url)
    s3 = seaweedfs.settings().model_copy(update={"s3_bucket": "previous"})
    _restore_objects(s3, folder)
    environment = service_environment(
        database_url, s3, work_dir=folder / "work", cache_dir=folder / "cache"
    )
    with ExitStack() as services:

        def start(name: str, **more: str) -> str:
            process = ServiceProcess(f"services.{name}", folder / name, {**environment, **more})
            return services.enter_context(process).start()

        addresses = {"MAGFACE_EMBEDDER_ADDRESS": start("embedder")}
        addresses["MAGFACE_FEEDBACK_ADDRESS"] = start("feedback", **addresses)
        addresses["MAGFACE_TRAINER_ADDRESS"] = start("trainer", **addresses)
        pictures = [folder / "pictures" / name for name in EXPECTED["pictures"]]
        yield Installation(database_url, addresses, pictures)


def _restore_database(database_url: str) -> None:
    dump = gzip.decompress((DATA / "database.sql.gz").read_bytes()).decode()
    # Commands of psql, which the server does not know.
    lines = (line for line in dump.splitlines(keepends=True) if not line.startswith("\\"))
    with psycopg.connect(database_url) as connection:
        connection.execute("".join(lines).encode())


def _restore_objects(s3: ObjectStoreSettings, folder: Path) -> None:
    objects = ObjectStore(s3.model_copy(update={"s3_timeout_s": 30.0}))
    objects.ensure_bucket()
    with zipfile.ZipFile(DATA / "objects.zip") as archive:
        for key in archive.namelist():
            if key.startswith("pictures/"):
                archive.extract(key, folder)
            else:
                objects.put(key, archive.read(key))


def assert_contains(answer: Any, expected: Any, path: str = "") -> None:
    """Require every expected field, with its value; an answer may have more fields."""
    match expected:
        case dict():
            assert isinstance(answer, dict), path
            for name, value in expected.items():
                assert name in answer, f"{path}.{name} is gone"
                assert_contains(answer[name], value, f"{path}.{name}")
        case list():
            assert len(answer) >= len(expected), path
            for index, value in enumerate(expected):
                assert_contains(answer[index], value, f"{path}[{index}]")
        case float():
            assert answer == pytest.approx(expected, abs=1e-4), path
        case _:
            assert answer == expected, path


def test_the_version_that_served_serves_and_gives_the_same_embeddings(
    installation: Installation,
) -> None:
    embedded = installation.ask("embed", *installation.pictures)
    for face in embedded["faces"]:
        face["image"] = Path(face["image"]).name
    assert_contains(embedded, EXPECTED["embed"])
    verified = installation.ask("verify", *installation.pictures[:2], "--embeddings")
    assert_contains(verified, EXPECTED["verify"])


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("stats", ["feedback", "stats"]),
        ("list", ["feedback", "list"]),
        ("audit", ["feedback", "audit"]),
        ("annotators", ["feedback", "annotators"]),
        ("suspects", ["feedback", "suspects"]),
        ("models", ["models", "list"]),
        ("jobs", ["jobs", "list"]),
        ("evaluations", ["models", "evaluations"]),
    ],
)
def test_commands_answer_as_the_older_commit_did(
    installation: Installation, name: str, command: list[str]
) -> None:
    assert_contains(installation.ask(*command), EXPECTED[name])


def test_the_history_of_promotions_goes_on(installation: Installation) -> None:
    candidate = EXPECTED["candidate"]
    promoted = installation.ask(
        "models", "promote", candidate, "--by", "eve", "--reason", "again", "--override-gate"
    )
    assert promoted["serving_generation"] == 4
    wait_until(lambda: _serving(installation) == candidate)
    installation.ask("models", "rollback", "--by", "eve", "--reason", "and back")
    wait_until(lambda: _serving(installation) == EXPECTED["serving"])


def _serving(installation: Installation) -> str:
    version = installation.ask("embed", installation.pictures[0])["model_version"]
    assert isinstance(version, str)
    return version


def test_labels_are_added_to_those_that_are_there(installation: Installation) -> None:
    before = installation.ask("feedback", "stats")
    a, _, b = installation.pictures
    installation.ask("feedback", "submit", a, b, "--label", "different", "--annotator", "eve")
    after = installation.ask("feedback", "stats")
    assert after["labels"] == before["labels"] + 1
    assert after["annotators"] == before["annotators"] + 1


def test_an_erased_image_stays_erased(installation: Installation) -> None:
    with psycopg.connect(installation.database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM feedback.images WHERE sha256 = decode(%s, 'hex')",
            [EXPECTED["erased"]],
        ).fetchone()
    assert row == (0,)
