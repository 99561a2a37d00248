import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.embedder.settings import EmbedderSettings  # noqa: F401
from services.feedback.settings import FeedbackSettings  # noqa: F401
from services.trainer.settings import TrainerSettings, WorkerSettings  # noqa: F401
from shared.errors import PreconditionFailed
from shared.settings import MagFaceSettings

_VALID = {
    "MAGFACE_DATABASE_URL": "postgresql://me:topsecret@127.0.0.1:5432/magface",
    "MAGFACE_S3_ENDPOINT": "127.0.0.1:9000",
    "MAGFACE_S3_ACCESS_KEY": "key",
    "MAGFACE_S3_SECRET_KEY": "topsecret",
    "MAGFACE_FEEDBACK_ADDRESS": "127.0.0.1:50052",
}


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Start a service with changed variables, which must end it; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(service: str, **changes: str | None) -> str:
        for name, value in _VALID.items():
            monkeypatch.setenv(name, value)
        for name, value in changes.items():
            if value is None:
                monkeypatch.delenv(f"MAGFACE_{name}")
            else:
                monkeypatch.setenv(f"MAGFACE_{name}", value)
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"services.{service}.__main__").main()
        assert isinstance(ended.value.code, str)
        assert ended.value.__suppress_context__
        return ended.value.code + "".join(capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("S3_ENDPOINT", "http://127.0.0.1:9000", "without a scheme"),
        ("S3_ENDPOINT", "127.0.0.1:9000/bucket", "port"),
        ("S3_ENDPOINT", "127.0.0.1:99999", "port"),
        ("S3_ENDPOINT", None, "is not set"),
        ("S3_BUCKET", "a bucket", "match pattern"),
        ("S3_ACCESS_KEY", "", "at least 1 character"),
        ("S3_SECRET_KEY", "", "at least 1 item"),
        ("S3_TIMEOUT_S", "-1", "greater than 0"),
        ("DATABASE_URL", "mysql://me:topsecret@127.0.0.1/magface", "postgresql://"),
        ("DATABASE_URL", "postgresql://me:topsecret@127.0.0.1:99999/magface", "port"),
        ("DATABASE_URL", "postgresql://me:top%secret@127.0.0.1/magface", "%XX"),
        ("DATABASE_URL", "topsecret", "postgresql://"),
        ("DATABASE_URL", "host=127.0.0.1 password=topsecret port=x", "port"),
        ("DATABASE_URL", "host=a,b port=5432,99999 password=topsecret", "port"),
        ("DATABASE_URL", "postgresql://me:change-me@127.0.0.1/magface", "of your own"),
        ("DATABASE_URL", "postgresql://me:Change%2DMe-too@127.0.0.1/magface", "of your own"),
        ("DATABASE_URL", "host=127.0.0.1 password=changeme", "of your own"),
        ("S3_ACCESS_KEY", "change-me", "of your own"),
        ("S3_SECRET_KEY", "CHANGE_ME", "of your own"),
        ("LISTEN", "127.0.0.1:99999", "0..65535"),
        ("LISTEN", "50051", "host:port"),
        ("LISTEN", "http://127.0.0.1:50051", "host:port"),
        ("EMBEDDER_ADDRESS", "https://embedder:50051", "host:port"),
        ("STOP_GRACE_S", "topsecret", "valid number"),
        ("LOG_LEVEL", "topsecret", "DEBUG"),
    ],
)
def test_wrong_setting_is_one_line_that_names_it(
    start: Callable[..., str], name: str, value: str | None, why: str
) -> None:
    said = start("feedback", **{name: value})
    assert said.count("\n") == 0
    assert said.startswith(f"the feedback service cannot start: MAGFACE_{name}")
    assert why in said
    assert "secret" not in said


@pytest.mark.parametrize("service", ["embedder", "feedback", "trainer", "trainer.worker"])
def test_every_service_names_all_wrong_settings(start: Callable[..., str], service: str) -> None:
    said = start(service, S3_ENDPOINT="s3://topsecret", S3_SECRET_KEY=None)
    assert said.count("\n") == 0
    assert "MAGFACE_S3_ENDPOINT" in said
    assert "MAGFACE_S3_SECRET_KEY is not set" in said
    assert "topsecret" not in said


def test_settings_that_depend_on_a_wrong_one_are_not_named(start: Callable[..., str]) -> None:
    assert start("embedder", LISTEN="nowhere").endswith("without a scheme or a path")


@pytest.mark.parametrize("service", ["embedder", "trainer"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, service: str) -> None:
    (tmp_path / "file").write_text("")
    name = "MAGFACE_" + {"embedder": "CACHE_DIR", "trainer": "WORK_DIR"}[service]
    folder = tmp_path / "file" / "folder"
    # In a process of its own, as settings that are valid so far change the whole process.
    ended = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env=os.environ | _VALID | {name: str(folder)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert f"{name}: no file can be made in {folder}" in ended.stderr


def test_unreadable_env_file_is_one_line(start: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"MAGFACE_S3_SECRET_KEY=\xff\xfetopsecret")
    said = start("feedback")
    assert said.count("\n") == 0
    assert ".env" in said
    assert "topsecret" not in said


def _settings_classes(base: type[MagFaceSettings]) -> list[type[MagFaceSettings]]:
    found = [base]
    for kind in base.__subclasses__():
        found += _settings_classes(kind)
    return found


@pytest.mark.parametrize("kind", _settings_classes(MagFaceSettings), ids=lambda kind: kind.__name__)
def test_settings_say_what_is_wrong_without_its_value_whoever_makes_them(
    kind: type[MagFaceSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [
        name for name, field in kind.model_fields.items() if field.annotation in (int, float)
    ]
    for name in kind.model_fields:
        monkeypatch.setenv(f"MAGFACE_{name.upper()}", "topsecret")
    if not numbers:
        return
    with pytest.raises(PreconditionFailed) as caught:
        kind()
    assert all(f"MAGFACE_{name.upper()}: " in str(caught.value) for name in numbers)
    assert "topsecret" not in f"{caught.value!r}{caught.value.__cause__}"
    assert "\n" not in str(caught.value)


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "cli", "up", "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"MAGFACE_S3_TIMEOUT_S": "topsecret"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("magface: the ")
    assert "cannot start: MAGFACE_S3_TIMEOUT_S: " in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "topsecret" not in ended.stderr
