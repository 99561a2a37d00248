"""Store of model versions: immutable folders in the object store, with a local cache."""

import fcntl
import logging
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from shared.errors import AlreadyExists, CorruptData, InvalidInput, NotFound, PreconditionFailed
from shared.files import room_in
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
    """Publishes and fetches version folders, always complete and verified.

    Args:
        objects: Object store with the versions.
        cache_dir: Folder of the local copies; threads and processes may share it.
    """

    def __init__(self, objects: ObjectStore, cache_dir: Path) -> None:
        self._objects = objects
        self._cache_dir = cache_dir

    def publish(self, folder: Path) -> None:
        """Upload a version folder. The manifest is last, so a published version is complete.

        To publish the same folder again changes nothing.

        Raises:
            CorruptData: If a local file does not match the manifest.
            AlreadyExists: If the version is published with other content.
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
        if _immutable_fields(published) != _immutable_fields(manifest):
            raise AlreadyExists(
                f"model version {version} is published with other content; "
                "versions are immutable, publish under another name"
            )

    def restore_manifest(self, manifest: Manifest) -> bool:
        """Write the manifest of a published version again unless the store has a valid one.

        Returns:
            Whether it was written.

        Raises:
            Unavailable: If the store cannot be reached.
        """
        try:
            self._published(manifest.model_version)
        except CorruptData:
            key = _key(manifest.model_version, MANIFEST_FILE)
            self._objects.put(key, manifest.to_json().encode())
            return True
        except NotFound:
            pass
        return False

    def manifest(self, model_version: str) -> Manifest:
        """Read the manifest of a version, from the local copy if there is one.

        Raises:
            InvalidInput: If the name is not a valid version name.
            NotFound: If no such version is published.
            CorruptData: If the manifest does not follow its format.
        """
        try:
            return read_manifest(self._folder(model_version))
        except CorruptData:
            return self._published(model_version)

    def fetch(self, model_version: str, *, rehash: bool = False) -> Path:
        """Return the local folder of a version; download it unless an intact copy exists.

        A download is checked against every SHA-256 of the manifest before the folder is created.
        A local copy is checked by its manifest and the file sizes, without access to the store.

        Args:
            model_version: Name of the version.
            rehash: Also check the hashes of a local copy.

        Raises:
            InvalidInput: If the name is not a valid version name.
            NotFound: If no such version is published.
            CorruptData: If a stored file is truncated or changed; the message names the file.
            Unavailable: If a download is needed, and the store cannot be reached or there is no
                room for it.
        """
        folder = self._folder(model_version)
        if _is_intact(folder, hashes=rehash):
            return folder
        with room_in(self._cache_dir), self._locked(model_version):
            if not _is_intact(folder, hashes=rehash):
                self._download(model_version, folder)
        return folder

    def require_files(self, manifest: Manifest) -> None:
        """Look whether the store has all files of a version, in their sizes.

        Raises:
            PreconditionFailed: If it lacks one, or has one of another size.
            Unavailable: If the store cannot be reached.
        """
        version = manifest.model_version
        for name in (*manifest.files, MANIFEST_FILE):
            try:
                size = self._objects.stat(_key(version, name)).size
            except NotFound as error:
                raise PreconditionFailed(
                    f"the object store lacks {name} of model version {version}; restore it there,"
                    " or make the version again"
                ) from error
            if name != MANIFEST_FILE and size != manifest.files[name].size:
                raise PreconditionFailed(
                    f"{name} of model version {version} has {size} bytes in the object store, the"
                    f" manifest says {manifest.files[name].size}; restore it there, or make the"
                    " version again"
                )

    def remove_partials(self) -> None:
        """Remove what downloads left that were killed; those under way stay."""
        for partial in self._cache_dir.glob(f".*{_PARTIAL}"):
            if partial.is_dir():
                version = partial.name[1:].removesuffix(_PARTIAL)
                with self._locked(version, wait=False) as locked:
                    if locked:
                        shutil.rmtree(partial, ignore_errors=True)

    def prune(self, keep: Collection[str]) -> list[str]:
        """Remove the local copies and incomplete downloads of all other versions.

        A version that is being fetched stays, as do folders that are not a version's. If a
        version is removed while another process loads it, the load fails there, and the next
        fetch downloads the version again.

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
        try:
            partial.mkdir()
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
            raise CorruptData(f"model version {version} lacks its file {name}") from error
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
            raise InvalidInput("model_version", f"{model_version!r} is not a valid version name")
        return self._cache_dir / model_version


def _version_of(folder: Path) -> str | None:
    """Return the version that a folder is a complete or partial copy of; None for other folders."""
    if folder.name.startswith(".") and folder.name.endswith(_PARTIAL):
        return folder.name[1:].removesuffix(_PARTIAL)
    return folder.name if (folder / MANIFEST_FILE).is_file() else None


def published_manifest(objects: ObjectStore, model_version: str) -> Manifest:
    """Read the manifest of a version from the object store.

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
        raise CorruptData(f"object {key} is the manifest of {manifest.model_version}")
    return manifest


def _is_intact(folder: Path, *, hashes: bool) -> bool:
    try:
        _verify(folder, read_manifest(folder), hashes=hashes)
    except CorruptData as error:
        if folder.exists():
            logger.warning(
                "the copy of a model version in %s is damaged and is downloaded again: %s",
                folder,
                error,
            )
        return False
    return True


def _verify(folder: Path, manifest: Manifest, *, hashes: bool) -> None:
    for name, entry in manifest.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry.size:
            raise CorruptData(f"{name} has {size} bytes, the manifest says {entry.size}")
        if hashes and (found := describe_file(path).sha256) != entry.sha256:
            raise CorruptData(f"{name} has SHA-256 {found}, the manifest says {entry.sha256}")


def _immutable_fields(manifest: Manifest) -> dict[str, Any]:
    """Return the fields that must not differ when a version is published again."""
    return manifest.model_dump(exclude={"created_at", "metrics"})


def _key(model_version: str, name: str) -> str:
    return f"{VERSIONS_PREFIX}{model_version}/{name}"
