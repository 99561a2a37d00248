"""After an erasure nothing that the stack stores has the hash, the pixels or the embedding."""

import hashlib
import json
from pathlib import Path
from uuid import UUID, uuid4

import cv2
import numpy as np
import psycopg
import pytest

from cli.rendering.renderer import render_person
from deploy.local.endpoints import Endpoints
from deploy.local.stack import Stack
from services.trainer.data.label_report import LabelReport, Suspicion, store_report, suspect
from services.trainer.data.labels import LabelledPair
from shared.registry.evaluation_pages import page_key
from shared.registry.image_data import OBJECTS, TABLES, Erasure
from shared.storage.objects import ObjectStore, image_key
from tests.cli.conftest import Ask
from tests.support.traces import Traces
from tests.support.waiting import wait_until

# Nobody else in these tests has images of these people.
_ERASED, _OTHERS = 9001, (9002, 9003)


def _png(person: int, image: int) -> bytes:
    data: bytes = cv2.imencode(".png", render_person(person, image))[1].tobytes()
    return data


@pytest.fixture
def database_url(endpoints: Endpoints) -> str:
    return endpoints.database_url


@pytest.fixture
def labelled(ask: Ask, tmp_path: Path) -> str:
    """Import images, and label pairs with one of them wrongly; returns its SHA-256."""
    files = {
        (person, image): _png(person, image) for person in (_ERASED, *_OTHERS) for image in (0, 1)
    }
    for (person, image), data in files.items():
        (tmp_path / f"{person}-{image}.png").write_bytes(data)
    erased = f"{_ERASED}-0.png"
    pairs = [
        *({"image1": erased, "image2": f"{other}-0.png", "label": 1} for other in _OTHERS),
        {"image1": erased, "image2": f"{_ERASED}-1.png", "label": 0},
        {"image1": f"{_OTHERS[0]}-0.png", "image2": f"{_OTHERS[1]}-0.png", "label": 1},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": pairs}))
    ask("feedback", "import", tmp_path / "pairs.json", "--annotator", "erased-traces")
    return hashlib.sha256(files[_ERASED, 0]).hexdigest()


def _embedding(database_url: str, sha256: str) -> np.ndarray:
    def found() -> list[tuple[str]]:
        with psycopg.connect(database_url) as connection:
            return connection.execute(
                "SELECT embedding::text FROM feedback.embeddings WHERE sha256 = %s",
                [bytes.fromhex(sha256)],
            ).fetchall()

    wait_until(lambda: bool(found()), timeout_s=60)
    return np.array(json.loads(found()[0][0]), np.float32)


def test_after_an_erasure_nothing_that_is_stored_has_a_trace_of_the_image(
    ask: Ask, stack: Stack, database_url: str, objects: ObjectStore, labelled: str
) -> None:
    traces = Traces(_png(_ERASED, 0), render_person(_ERASED, 0), _embedding(database_url, labelled))
    ask("feedback", "next", "--annotator", "erased-traces", "--count", "20")
    page = page_key(UUID(ask("models", "evaluate")["job"]["job_id"]))
    other = hashlib.sha256(_png(_OTHERS[0], 0)).hexdigest()
    wrong = suspect(LabelledPair(labelled, other, True, 1.0, ()), 0.9, Suspicion.UNLIKELY)
    store_report(objects, uuid4(), LabelReport(3, 0.1, False, (wrong,), ()))
    # The search finds each kind of trace where it is known to be.
    found = traces.in_objects(objects)
    assert found[image_key(labelled)] == {"hash", "pixels"}
    assert found[page] == {"hash", "pixels"}
    assert {"hash"} in found.values()
    rows = traces.in_tables(database_url)
    assert rows["feedback.images"] == {"hash"}
    assert rows["feedback.embeddings"] == {"hash", "embedding"}
    assert {"feedback.pairs", "feedback.candidates"} & rows.keys()
    assert all(TABLES[name] is Erasure.DELETED for name in rows)
    unregistered = [
        stored.key for stored in objects.list() if not stored.key.startswith(tuple(OBJECTS))
    ]
    assert unregistered == []

    ask("feedback", "erase-image", labelled, "--by", "dpo")

    assert traces.in_objects(objects) == {}
    assert traces.in_tables(database_url) == {}
    for folder in stack.folder.iterdir():
        if folder.is_dir() and folder.name not in ("postgres", "objects", "logs"):
            assert traces.in_files(folder) == {}
    text = objects.get(page).decode()
    assert "removed because an image of this pair was erased" in text
    assert "genuine and" in text
