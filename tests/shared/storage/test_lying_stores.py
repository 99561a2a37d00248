"""What an object store does when something else answers in its place, or damages its answers."""

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from shared.errors import CorruptData, NotFound, Unavailable
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.support.lying_store import (
    Answer,
    Lie,
    LyingStore,
    bare,
    cut,
    flipped,
    garbage,
    header,
    lying_store,
    nothing,
    page,
    shortened,
)

_DATA: Final = os.urandom(3000)
_SHA256: Final = hashlib.sha256(_DATA).hexdigest()
_LARGE: Final = 17 * 2**20
_random: Final = random.Random(15)

# Nobody who asks a store gets these from it, so that each operation must fail.
_IMPOSTORS: Final[dict[str, Lie]] = {
    "page": page(200),
    "page-as-xml": page(200, "application/xml"),
    "page-with-tag": page(200, "text/html; charset=utf-8", ("ETag", '"5f3e-4a"')),
    "no-content": nothing(200),
    "forbidden-page": page(403),
    "missing-page": page(404),
    "failing-page": page(502),
    "full-page": page(507),
    "failing-for-an-hour": page(503, "text/html", ("Retry-After", "3600")),
    "garbage": garbage,
    "redirect-without-target": nothing(307),
    "redirect-loop": page(307, "text/html", ("Location", "/again")),
    "redirect-to-nonsense": page(307, "text/html", ("Location", "http://[::1:99999999/")),
}
# A bucket that exists is answered without a body.
_LIKE_A_BUCKET: Final = (_IMPOSTORS["no-content"], _IMPOSTORS["page-as-xml"])
# After these an operation may succeed if the answer did not matter, but must then be right.
_DAMAGES: Final[dict[str, Lie]] = {
    "cut": cut,
    "shortened": shortened,
    "bare": bare,
    "flipped": flipped(_random.randrange),
    "flipped-at-start": flipped(lambda _: 0),
    "no-date": header("Last-Modified", "yesterday"),
    "no-number": header("Content-Length", "many"),
    "negative": header("Content-Length", "-1"),
    "not-zipped": header("Content-Encoding", "gzip"),
}


@pytest.fixture
def proxy(object_store_settings: ObjectStoreSettings) -> Iterator[LyingStore]:
    with lying_store(object_store_settings) as store:
        yield store


@pytest.fixture
def store(proxy: LyingStore, object_store_settings: ObjectStoreSettings) -> ObjectStore:
    found = ObjectStore(
        object_store_settings.model_copy(
            update={"s3_endpoint": proxy.endpoint, "s3_timeout_s": 2.0}
        )
    )
    found.put("known", _DATA)
    return found


def _operations(store: ObjectStore, folder: Path) -> dict[str, Callable[[], object]]:
    (folder / "small").write_bytes(_DATA)
    with (folder / "large").open("wb") as file:
        file.truncate(_LARGE)
    return {
        "ensure_bucket": lambda: ObjectStore.ensure_bucket(store),
        "put": lambda: store.put("new", _DATA),
        "put_file": lambda: store.put_file("file", folder / "small"),
        "put_parts": lambda: store.put_file("parts", folder / "large"),
        "get": lambda: store.get("known"),
        "get_hashed": lambda: store.get("known", sha256=_SHA256),
        "get_file": lambda: store.get_file("known", folder / "out", sha256=_SHA256),
        "stat": lambda: store.stat("known"),
        "exists": lambda: store.exists("known"),
        "list": lambda: list(store.list("k")),
        "remove": lambda: store.remove("known"),
    }


@pytest.mark.parametrize("lie", _IMPOSTORS.values(), ids=_IMPOSTORS)
def test_every_operation_is_unavailable_when_something_else_answers(
    proxy: LyingStore, store: ObjectStore, tmp_path: Path, lie: Lie
) -> None:
    for name, operation in _operations(store, tmp_path).items():
        if name == "ensure_bucket" and lie in _LIKE_A_BUCKET:
            continue
        started = time.monotonic()
        with proxy.lying(lie), pytest.raises(Unavailable) as raised:
            operation()
        assert time.monotonic() - started < 5, name
        assert len(str(raised.value)) < 700, name
    assert store.get("known", sha256=_SHA256) == _DATA
    assert not any(map(store.exists, ("new", "file", "parts")))


@pytest.mark.parametrize("lie", _DAMAGES.values(), ids=_DAMAGES)
def test_damaged_answers_are_unavailable_or_do_no_harm(
    proxy: LyingStore, store: ObjectStore, tmp_path: Path, lie: Lie
) -> None:
    expected = {
        "get": (_DATA,),
        "get_hashed": (_DATA,),
        "exists": (True,),
    }
    for name, operation in _operations(store, tmp_path).items():
        try:
            with proxy.lying(lie):
                result = operation()
        except (Unavailable, CorruptData) as error:
            # The same damage at each read cannot be told from a damaged object.
            assert isinstance(error, Unavailable) or (lie, name[:3]) == (
                _DAMAGES["flipped-at-start"],
                "get",
            )
            continue
        assert result in expected.get(name, (result,))
        if name == "put":
            assert store.get("new", sha256=_SHA256) == _DATA
        if name == "put_file":
            assert store.get("file", sha256=_SHA256) == _DATA
        if name == "put_parts":
            assert store.stat("parts").size == _LARGE
        if name == "stat":
            assert store.stat("known") == result
        if name == "remove":
            assert not store.exists("known")
    assert proxy.lies


@pytest.mark.parametrize("seed", range(40))
def test_one_flipped_byte_of_a_listing_ends_in_unavailable_or_a_listing(
    proxy: LyingStore, store: ObjectStore, seed: int
) -> None:
    chosen = random.Random(seed)
    with proxy.lying(flipped(chosen.randrange), "GET"), suppress(Unavailable):
        assert all(found.key.startswith("k") for found in store.list("k"))


def test_write_that_something_else_acknowledged_is_not_acknowledged(
    proxy: LyingStore, store: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(os.urandom(_LARGE))
    cached = page(200, "application/octet-stream", ("ETag", f'"{"0" * 32}"'))
    for lie in (page(200), nothing(200), cached):
        with proxy.lying(lie, "PUT"):
            with pytest.raises(Unavailable):
                store.put("lost", _DATA)
            with pytest.raises(Unavailable):
                store.put_file("lost", tmp_path / "large")
        with pytest.raises(NotFound):
            store.get("lost")
    store.put("lost", _DATA)
    assert store.get("lost") == _DATA


def test_removal_that_something_else_acknowledged_is_not_acknowledged(
    proxy: LyingStore, store: ObjectStore
) -> None:
    for lie in (page(200), nothing(204)):
        with proxy.lying(lie, "DELETE"), pytest.raises(Unavailable):
            store.remove("known")
    assert store.exists("known")


def test_removal_removes_what_a_write_under_way_has_written_again(
    proxy: LyingStore, store: ObjectStore, object_store: ObjectStore
) -> None:
    left = 2

    def written_again(_: str, ask: Callable[[], Answer]) -> Answer:
        nonlocal left
        answer = ask()
        if left:
            left -= 1
            object_store.put("known", _DATA)
        return answer

    with proxy.lying(written_again, "DELETE"):
        store.remove("known")
    assert not object_store.exists("known")


def test_errors_of_the_program_stay_what_they_are(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        store.put("", b"x")
    with pytest.raises(FileNotFoundError):
        store.put_file("key", tmp_path / "absent")
    with pytest.raises(TypeError):
        store.put("key", None)  # type: ignore[arg-type]
