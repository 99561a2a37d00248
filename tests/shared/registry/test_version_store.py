import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.errors import AlreadyExists, CorruptData, InvalidInput, NotFound, Unavailable
from shared.model.manifest import MANIFEST_FILE, ONNX_FILE, WEIGHTS_FILE, read_manifest
from shared.registry.version_store import VersionStore
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.shared.registry.versions import write_version

VERSION = "iresnet18-4f2a91c0"
ONNX_KEY = f"models/{VERSION}/{ONNX_FILE}"
MANIFEST_KEY = f"models/{VERSION}/{MANIFEST_FILE}"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder of a version, as an export writes it."""
    write_version(tmp_path / "made", VERSION)
    return tmp_path / "made"


@pytest.fixture
def versions(object_store: ObjectStore, tmp_path: Path) -> VersionStore:
    return VersionStore(object_store, tmp_path / "cache")


@pytest.fixture
def away(object_store_settings: ObjectStoreSettings, tmp_path: Path) -> VersionStore:
    """The same cache, with a store that cannot be reached."""
    settings = object_store_settings.model_copy(update={"s3_endpoint": "127.0.0.1:1"})
    return VersionStore(ObjectStore(settings), tmp_path / "cache")


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_fetch_gives_what_was_published(versions: VersionStore, made: Path) -> None:
    versions.publish(made)
    folder = versions.fetch(VERSION)
    assert folder.name == VERSION
    assert _content(folder) == _content(made)
    assert versions.manifest(VERSION) == read_manifest(made)


def test_publishing_twice_changes_nothing(
    versions: VersionStore, made: Path, object_store: ObjectStore
) -> None:
    versions.publish(made)
    before = object_store.stat(ONNX_KEY)
    again = read_manifest(made).model_copy(
        update={"created_at": datetime.now(UTC), "metrics": {"seconds": 2.0}}
    )
    again.write(made)
    versions.publish(made)
    assert object_store.stat(ONNX_KEY) == before


def test_version_never_changes(versions: VersionStore, made: Path, tmp_path: Path) -> None:
    versions.publish(made)
    write_version(tmp_path / "other", VERSION)
    with pytest.raises(AlreadyExists, match=VERSION):
        versions.publish(tmp_path / "other")
    read_manifest(made).model_copy(update={"threshold": 0.9}).write(made)
    with pytest.raises(AlreadyExists, match=VERSION):
        versions.publish(made)
    assert versions.manifest(VERSION).threshold == 0.3


def test_damaged_folder_is_not_published(
    versions: VersionStore, made: Path, object_store: ObjectStore
) -> None:
    _flip_last_byte(made / WEIGHTS_FILE)
    with pytest.raises(CorruptData, match=WEIGHTS_FILE):
        versions.publish(made)
    assert list(object_store.list()) == []


def test_half_published_version_does_not_exist_and_can_be_completed(
    versions: VersionStore, made: Path, object_store: ObjectStore
) -> None:
    object_store.put(ONNX_KEY, b"left by a publisher that was killed")
    with pytest.raises(NotFound, match=VERSION):
        versions.fetch(VERSION)
    versions.publish(made)
    assert _content(versions.fetch(VERSION)) == _content(made)


@pytest.mark.parametrize("damage", ["truncated", "altered", "longer", "lost"])
def test_damaged_object_is_refused_by_name_and_leaves_nothing(
    versions: VersionStore, made: Path, object_store: ObjectStore, tmp_path: Path, damage: str
) -> None:
    versions.publish(made)
    data = (made / ONNX_FILE).read_bytes()
    damaged = {"truncated": data[:-1], "altered": b"\0" + data[1:], "longer": data + b"\0"}
    if damage == "lost":
        object_store.remove(ONNX_KEY)
    else:
        object_store.put(ONNX_KEY, damaged[damage])
    with pytest.raises(CorruptData, match=ONNX_FILE):
        versions.fetch(VERSION)
    assert _visible(tmp_path / "cache") == []
    object_store.put(ONNX_KEY, data)
    assert _content(versions.fetch(VERSION)) == _content(made)


def _with(manifest: Path, **changes: Any) -> bytes:
    return json.dumps(json.loads(manifest.read_text()) | changes).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"model_version": "another"},
        {"threshold": "high"},
        {"files": {"../escaped": {"sha256": "0" * 64, "size": 1}}},
        {"files": {MANIFEST_FILE: {"sha256": "0" * 64, "size": 1}}},
        {"files": {ONNX_FILE: {"sha256": "0" * 64, "size": 300_000}}},
        {"surprise": 1},
    ],
)
def test_tampered_manifest_is_refused(
    versions: VersionStore,
    made: Path,
    object_store: ObjectStore,
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    versions.publish(made)
    object_store.put(MANIFEST_KEY, _with(made / MANIFEST_FILE, **changes))
    with pytest.raises(CorruptData, match=VERSION):
        versions.fetch(VERSION)
    assert _visible(tmp_path / "cache") == []
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\x00", b"[]"])
def test_manifest_that_is_none_is_refused(
    versions: VersionStore, made: Path, object_store: ObjectStore, data: bytes
) -> None:
    versions.publish(made)
    object_store.put(MANIFEST_KEY, data)
    with pytest.raises(CorruptData, match=MANIFEST_FILE):
        versions.manifest(VERSION)


def test_unknown_version_is_not_found(versions: VersionStore) -> None:
    for read in (versions.fetch, versions.manifest):
        with pytest.raises(NotFound, match="iresnet18-never"):
            read("iresnet18-never")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../made", "UPPER", "x" * 200, "a\n", ".x"])
def test_what_cannot_be_a_name_is_refused(versions: VersionStore, name: str) -> None:
    for read in (versions.fetch, versions.manifest):
        with pytest.raises(InvalidInput, match="model_version"):
            read(name)


def test_local_copy_needs_no_store(versions: VersionStore, away: VersionStore, made: Path) -> None:
    versions.publish(made)
    with pytest.raises(Unavailable):
        away.fetch(VERSION)
    versions.fetch(VERSION)
    assert _content(away.fetch(VERSION)) == _content(made)
    assert away.manifest(VERSION) == read_manifest(made)


@pytest.mark.parametrize("name", [ONNX_FILE, MANIFEST_FILE])
def test_truncated_local_copy_is_replaced(versions: VersionStore, made: Path, name: str) -> None:
    versions.publish(made)
    folder = versions.fetch(VERSION)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    assert _content(versions.fetch(VERSION)) == _content(made)


def test_altered_local_copy_is_found_on_request(versions: VersionStore, made: Path) -> None:
    versions.publish(made)
    folder = versions.fetch(VERSION)
    _flip_last_byte(folder / ONNX_FILE)
    assert _content(versions.fetch(VERSION, rehash=True)) == _content(made)


def test_remains_of_a_killed_download_do_not_matter(
    versions: VersionStore, made: Path, tmp_path: Path
) -> None:
    versions.publish(made)
    partial = tmp_path / "cache" / f".{VERSION}.partial"
    partial.mkdir(parents=True)
    (partial / ONNX_FILE).write_bytes(b"half")
    assert _content(versions.fetch(VERSION)) == _content(made)
    assert _visible(tmp_path / "cache") == [VERSION]


def test_threads_fetch_one_version_at_once(versions: VersionStore, made: Path) -> None:
    versions.publish(made)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: _content(versions.fetch(VERSION)), range(8)))
    assert folders == [_content(made)] * 8


def test_processes_fetch_one_version_at_once(
    versions: VersionStore, made: Path, tmp_path: Path, object_store_settings: ObjectStoreSettings
) -> None:
    versions.publish(made)
    program = (
        "import sys; from pathlib import Path\n"
        "from shared.registry.version_store import VersionStore\n"
        "from shared.settings import ObjectStoreSettings\n"
        "from shared.storage.objects import ObjectStore\n"
        "store = VersionStore(ObjectStore(ObjectStoreSettings()), Path(sys.argv[1]))\n"
        "print(store.fetch(sys.argv[2], rehash=True))"
    )
    environment = os.environ | {
        "MAGFACE_S3_ENDPOINT": object_store_settings.s3_endpoint,
        "MAGFACE_S3_ACCESS_KEY": object_store_settings.s3_access_key,
        "MAGFACE_S3_SECRET_KEY": object_store_settings.s3_secret_key.get_secret_value(),
        "MAGFACE_S3_BUCKET": object_store_settings.s3_bucket,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "cache"), VERSION],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    printed = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert printed == {str(tmp_path / "cache" / VERSION)}


def _flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
