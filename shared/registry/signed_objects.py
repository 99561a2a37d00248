"""Signatures of the objects that decide what serves: pointers and manifests.

A manifest has the hashes of its version's files, so they need none of their own.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from shared.errors import CorruptData
from shared.key_sets import SIGNING_ALGORITHM, load_key_set, load_signing_key
from shared.model.manifest import MANIFEST_FILE
from shared.registry.serving_pointer import POINTER_KEY
from shared.registry.shadow_pointer import SHADOW_KEY
from shared.registry.version_store import VERSIONS_PREFIX
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from shared.watched_files import WatchedFiles

_SIGNED: Final = b'{"jws": '


class SignedObjects(ObjectStore):
    """An object store in which pointers and manifests are signed.

    With a signing key it signs those that it writes. With trusted keys it gives only those that are
    signed with one of them; without, it gives all of them and does not look at signatures.

    Args:
        settings: Of the store.
        trusted: Key set (JWKS) of those who may decide what serves.
        signing_key: Private key (JWK); its public key is trusted too.

    Raises:
        PreconditionFailed: If a file of keys cannot be used.
    """

    def __init__(
        self,
        settings: ObjectStoreSettings,
        *,
        trusted: Path | None = None,
        signing_key: Path | None = None,
    ) -> None:
        super().__init__(settings)
        self._key: WatchedFiles[OKPKey] | None = None
        self._trusted: WatchedFiles[KeySet] | None = None
        if signing_key is not None:
            self._key = WatchedFiles({"MAGFACE_MODEL_SIGNING_KEY": signing_key}, load_signing_key)
        if trusted is not None:
            self._trusted = WatchedFiles({"MAGFACE_MODEL_JWKS": trusted}, load_key_set)

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        """Read an object as `ObjectStore.get` does.

        Raises:
            CorruptData: If it must be signed and is not, or not with a trusted key.
        """
        data = super().get(key, sha256=sha256)
        return self._open(key, data) if _must_be_signed(key) else data

    def put(self, key: str, data: bytes) -> None:
        """Write an object as `ObjectStore.put` does."""
        super().put(key, self._sign(key, data) if _must_be_signed(key) else data)

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file as `ObjectStore.put_file` does."""
        if _must_be_signed(key):
            self.put(key, path.read_bytes())
        else:
            super().put_file(key, path)

    def _sign(self, key: str, data: bytes) -> bytes:
        if self._key is None:
            return data
        private = self._key.current()
        header = {"alg": SIGNING_ALGORITHM, "kid": private.kid}
        signature = jws.serialize_compact(
            header, _statement(key, data), private, algorithms=[SIGNING_ALGORITHM]
        )
        return json.dumps({"jws": signature, "content": data.decode()}).encode()

    def _open(self, key: str, data: bytes) -> bytes:
        keys = self._keys()
        if not data.startswith(_SIGNED):
            if keys:
                raise CorruptData(f"object {key} is not signed")
            return data
        try:
            signed: dict[str, Any] = json.loads(data)
            content, signature = signed["content"].encode(), str(signed["jws"])
        except (ValueError, KeyError, AttributeError):
            raise CorruptData(f"object {key} has no valid signature") from None
        if keys:
            self._verify(key, content, signature, KeySet(keys))
        return bytes(content)

    def _verify(self, key: str, content: bytes, signature: str, keys: KeySet) -> None:
        try:
            verified = jws.deserialize_compact(signature, keys, algorithms=[SIGNING_ALGORITHM])
        except (JoseError, ValueError, TypeError, KeyError):
            raise CorruptData(f"object {key} is not signed with a trusted key") from None
        if verified.payload != _statement(key, content):
            raise CorruptData(f"the signature of object {key} is for another content or place")

    def _keys(self) -> list[Any]:
        keys = list(self._trusted.current()) if self._trusted else []
        if self._key is not None:
            keys.append(self._key.current())
        return keys


def _must_be_signed(key: str) -> bool:
    manifest = key.startswith(VERSIONS_PREFIX) and key.endswith(f"/{MANIFEST_FILE}")
    return manifest or key in {POINTER_KEY, SHADOW_KEY}


def _statement(key: str, data: bytes) -> bytes:
    """What is signed; with the key, so that an object is worth nothing in another's place."""
    return f"{key}\n{hashlib.sha256(data).hexdigest()}".encode()
