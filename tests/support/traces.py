"""Search of all that is stored for traces of one image: its hash, its pixels, its embedding."""

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from shared.storage.objects import ObjectStore

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")
_JPEG, _PNG, _ZIP = b"\xff\xd8\xff", b"\x89PNG", b"PK\x03\x04"
# A JPEG of a rendered face differs from it by less, and other faces by more.
_SAME_PICTURE = 8.0


@dataclass(frozen=True)
class Traces:
    """What must not be found.

    Attributes:
        data: The bytes of the image.
        crop: uint8 [112, 112, 3], BGR.
        embedding: float32 [D].
    """

    data: bytes
    crop: NDArray[np.uint8]
    embedding: NDArray[np.float32]

    def in_objects(self, objects: ObjectStore) -> dict[str, set[str]]:
        """Search a bucket; returns the kinds of traces by key."""
        found = {}
        for stored in objects.list():
            kinds = self.in_bytes(stored.key.encode()) | self.in_bytes(objects.get(stored.key))
            if kinds:
                found[stored.key] = kinds
        return found

    def in_tables(self, database_url: str) -> dict[str, set[str]]:
        """Search every row of every table; returns the kinds of traces by table."""
        found: dict[str, set[str]] = {}
        with psycopg.connect(database_url) as connection:
            for schema, name in tables(connection):
                rows = sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(schema, name))
                for (text,) in connection.execute(rows):
                    if kinds := self.in_bytes(text.encode()):
                        found.setdefault(f"{schema}.{name}", set()).update(kinds)
        return found

    def in_files(self, folder: Path) -> dict[str, set[str]]:
        """Search all files of a folder; returns the kinds of traces by path."""
        found = {}
        for path in folder.rglob("*"):
            if path.is_file() and (kinds := self.in_bytes(path.read_bytes())):
                found[str(path)] = kinds
        return found

    def in_bytes(self, content: bytes) -> set[str]:
        kinds = {
            kind
            for kind, needles in self._needles().items()
            if any(needle in content for needle in needles)
        }
        for inner in _inner(content):
            kinds |= self.in_bytes(inner)
        if content.startswith((_JPEG, _PNG)) and self._shows(content):
            kinds.add("pixels")
        return kinds

    def _needles(self) -> dict[str, list[bytes]]:
        digest = hashlib.sha256(self.data).digest()
        numbers = [str(number) for number in self.embedding[1:4]]
        return {
            "hash": _spellings(digest),
            "pixels": [
                *_spellings(self.data[:600]),
                *_spellings(self.crop.tobytes()[6000:6600]),
                *_spellings(self.crop[..., ::-1].tobytes()[6000:6600]),
            ],
            "embedding": [*_spellings(self.embedding.tobytes()), ",".join(numbers).encode()],
        }

    def _shows(self, picture: bytes) -> bool:
        decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            return False
        same_size = cv2.resize(decoded, self.crop.shape[1::-1]).astype(np.float32)
        return float(np.abs(same_size - self.crop).mean()) < _SAME_PICTURE


def tables(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """List all tables but those of Postgres itself and partitions; the rows of these are listed
    with their table.
    """
    return connection.execute(
        "SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND nspname !~ '^(pg_|information_schema)' ORDER BY 1, 2"
    ).fetchall()


def _spellings(data: bytes) -> list[bytes]:
    """Give bytes as they are, in hex, and in base64 wherever they begin in a longer text."""
    shifted = [base64.b64encode(bytes(shift) + data)[4:-4] for shift in range(3)]
    return [data, data.hex().encode(), data.hex().upper().encode(), *shifted]


def _inner(content: bytes) -> Iterator[bytes]:
    """Yield what is packed into a file."""
    if content.startswith(_ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield archive.read(name)
    for packed in _BASE64.findall(content):
        yield base64.b64decode(packed[: len(packed) // 4 * 4])
