"""Removal of local copies of versions that are not in use."""

import fcntl
from pathlib import Path

import pytest

from shared.registry.version_store import VersionStore
from shared.storage.objects import ObjectStore
from tests.shared.registry.versions import write_version


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def versions(object_store: ObjectStore, tmp_path: Path, cache: Path) -> VersionStore:
    """A store with copies of v1, v2 and v3."""
    store = VersionStore(object_store, cache)
    for name in ("v1", "v2", "v3"):
        write_version(tmp_path / "made" / name, name, size=1000)
        store.publish(tmp_path / "made" / name)
        store.fetch(name)
    return store


def _folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_only_the_versions_to_keep_stay_and_a_removed_one_can_be_fetched_again(
    versions: VersionStore, cache: Path
) -> None:
    assert sorted(versions.prune({"v2", "never fetched"})) == ["v1", "v3"]
    assert _folders(cache) == {"v2"}
    versions.fetch("v1", rehash=True)
    assert _folders(cache) == {"v1", "v2"}


def test_what_is_no_version_stays_and_a_download_that_was_cut_off_goes(
    versions: VersionStore, cache: Path
) -> None:
    (cache / "somebody's folder").mkdir()
    (cache / "last-served").write_text("v1")
    for name in (".v1.partial", ".v9.partial"):
        (cache / name).mkdir()
    versions.prune({"v1"})
    assert _folders(cache) == {"v1", ".v1.partial", "somebody's folder"}
    assert (cache / "last-served").read_text() == "v1"


def test_a_version_that_is_being_fetched_stays(versions: VersionStore, cache: Path) -> None:
    (cache / ".v9.partial").mkdir()
    with (cache / ".v9.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        versions.prune(set())
        assert _folders(cache) == {".v9.partial"}


def test_without_a_cache_there_is_nothing_to_prune(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    assert VersionStore(object_store, tmp_path / "none").prune(set()) == []
