"""Model versions: immutable folders in the object store, with verified local copies."""

import fcntl
import logging
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from shared.errors import AlreadyExists, CorruptData, InvalidInput, NotFound
from shared.model.manifest import (
    MANIFEST_FILE,
    FileEntry,
    Manifest,
    describe_file,
    parse_manifest,
    read_manifest,
)
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

VERSIONS_PREFIX: Final = "models/"
_PARTIAL = ".partial"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


class VersionStore:
    """Publishes version folders and fetches them, whole and verified or not at all.

    Args:
        cache_dir: Where local copies are kept; threads and processes may share it.
    """

    def __init__(self, objects: ObjectStore, cache_dir: Path) -> None:
        self._objects = objects
        self._cache_dir = cache_dir

    def publish(self, folder: Path) -> None:
        """Write a version's folder to the store; its manifest last, so that it exists whole.

        Publishing the same folder again changes nothing.

        Raises:
            CorruptData: If a local file does not match the manifest.
            AlreadyExists: If the version is published with another content.
            Unavailable: If the store cannot be reached; publish again then.
        """
        manifest = read_manifest(folder)
        _verify(folder, manifest, hashes=True)
        version = manifest.model_version
        try:
            published = self._published(version)
        except NotFound:
            for name in manifest.files:
                self._objects.put_file(_key(version, name), folder / name)
            self._objects.put_file(_key(version, MANIFEST_FILE), folder / MANIFEST_FILE)
            return
        if _lasting(published) != _lasting(manifest):
            raise AlreadyExists(
                f"model version {version} is published with another content; "
                "a version never changes, publish under another name"
            )

    def manifest(self, model_version: str) -> Manifest:
        """Read a version's manifest, from the local copy if there is one.

        Raises:
            InvalidInput: If the name cannot be a version's.
            NotFound: If no such version is published.
            CorruptData: If the manifest does not follow its format.
        """
        try:
            return read_manifest(self._folder(model_version))
        except CorruptData:
            return self._published(model_version)

    def fetch(self, model_version: str, *, rehash: bool = False) -> Path:
        """Give the local folder of a version, downloading it unless it is there and well.

        A download is checked against every SHA-256 of the manifest before the folder
        appears. A local copy is checked by its manifest and sizes and needs no store.

        Args:
            model_version: The version's name.
            rehash: Check the hashes of a local copy too.

        Raises:
            InvalidInput: If the name cannot be a version's.
            NotFound: If no such version is published.
            CorruptData: If a stored file is truncated or altered; the message names it.
            Unavailable: If it must be downloaded and the store cannot be reached.
        """
        folder = self._folder(model_version)
        if _is_well(folder, hashes=rehash):
            return folder
        with self._locked(model_version):
            if not _is_well(folder, hashes=rehash):
                self._download(model_version, folder)
        return folder

    def prune(self, keep: Collection[str]) -> list[str]:
        """Remove the local copies of other versions, and what is left of their downloads.

        What somebody is fetching now stays, and so does every folder that is no version's.
        A version that was removed while somebody loads it fails to load there; it is
        fetched again when it is asked for again.

        Returns:
            The versions that were removed.
        """
        removed = []
        for folder in self._cache_dir.glob("*/"):
            version = _version_of(folder)
            if version is None or version in keep:
                continue
            with self._locked(version, wait=False) as locked:
                if locked:
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(version)
        return removed

    def _published(self, version: str) -> Manifest:
        return published_manifest(self._objects, version)

    def _download(self, model_version: str, folder: Path) -> None:
        partial = self._cache_dir / f".{model_version}{_PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)
        manifest = self._published(model_version)
        partial.mkdir()
        try:
            for name, entry in manifest.files.items():
                self._download_file(model_version, name, entry, partial / name)
            manifest.write(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _download_file(self, version: str, name: str, entry: FileEntry, path: Path) -> None:
        try:
            self._objects.get_file(_key(version, name), path, sha256=entry.sha256)
        except NotFound as error:
            raise CorruptData(f"model version {version} has lost its {name}") from error
        if (size := path.stat().st_size) != entry.size:
            raise CorruptData(
                f"{name} of model version {version} has {size} bytes, "
                f"the manifest says {entry.size}"
            )

    @contextmanager
    def _locked(self, model_version: str, *, wait: bool = True) -> Iterator[bool]:
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        with (self._cache_dir / f".{model_version}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _folder(self, model_version: str) -> Path:
        if not _NAME.fullmatch(model_version):
            raise InvalidInput("model_version", f"{model_version!r} is no version's name")
        return self._cache_dir / model_version


def _version_of(folder: Path) -> str | None:
    """Name the version of which a folder is a copy, or a part of one; None for other folders."""
    if folder.name.startswith(".") and folder.name.endswith(_PARTIAL):
        return folder.name[1:].removesuffix(_PARTIAL)
    return folder.name if (folder / MANIFEST_FILE).is_file() else None


def published_manifest(objects: ObjectStore, model_version: str) -> Manifest:
    """Read a version's manifest in the store, for who needs nothing else of it.

    Raises:
        NotFound: If no such version is published.
        CorruptData: If the manifest does not follow its format.
        Unavailable: If the store cannot be reached.
    """
    key = _key(model_version, MANIFEST_FILE)
    try:
        data = objects.get(key)
    except NotFound as error:
        raise NotFound(f"model version {model_version} is not published") from error
    manifest = parse_manifest(data, key)
    if manifest.model_version != model_version:
        raise CorruptData(f"{key} is the manifest of {manifest.model_version}")
    return manifest


def _is_well(folder: Path, *, hashes: bool) -> bool:
    try:
        _verify(folder, read_manifest(folder), hashes=hashes)
    except CorruptData as error:
        if folder.exists():
            logger.warning("model version in %s must be fetched again: %s", folder, error)
        return False
    return True


def _verify(folder: Path, manifest: Manifest, *, hashes: bool) -> None:
    for name, entry in manifest.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry.size:
            raise CorruptData(f"{path} has {size} bytes, the manifest says {entry.size}")
        if hashes and (found := describe_file(path).sha256) != entry.sha256:
            raise CorruptData(f"{path} has SHA-256 {found}, the manifest says {entry.sha256}")


def _lasting(manifest: Manifest) -> dict[str, Any]:
    """What must be the same when a version is made and published a second time."""
    return manifest.model_dump(exclude={"created_at", "metrics"})


def _key(model_version: str, name: str) -> str:
    return f"{VERSIONS_PREFIX}{model_version}/{name}"
