"""The erasure mark."""

import json
import threading

from shared.errors import CorruptData
from shared.registry.erasure_mark import ERASURE_KEY, read_erasure_generation, write_erasure_mark
from shared.storage.objects import ObjectStore
from tests.support.details import raises_with_details


def test_before_the_first_erasure_the_generation_is_0(object_store: ObjectStore):
    assert read_erasure_generation(object_store) == 0


def test_each_mark_is_seen_by_who_reads_after_it_though_another_marks_at_the_same_time(
    object_store: ObjectStore,
):
    seen: list[int] = []

    def mark_and_read() -> None:
        for _ in range(10):
            write_erasure_mark(object_store)
            seen.append(read_erasure_generation(object_store))

    markers = [threading.Thread(target=mark_and_read) for _ in range(4)]
    before = read_erasure_generation(object_store)
    for marker in markers:
        marker.start()
    for marker in markers:
        marker.join()
    assert before not in seen
    last = read_erasure_generation(object_store)
    write_erasure_mark(object_store)
    assert read_erasure_generation(object_store) != last


def test_marks_of_one_moment_differ(object_store: ObjectStore, monkeypatch):
    monkeypatch.setattr(
        "shared.registry.erasure_mark.time.time_ns", lambda: 1_800_000_000_000_000_000
    )
    generations = set()
    for _ in range(4):
        write_erasure_mark(object_store)
        generations.add(read_erasure_generation(object_store))
    assert len(generations) > 1


def test_a_mark_says_nothing_of_whom_it_is_for(object_store: ObjectStore):
    write_erasure_mark(object_store)
    assert list(json.loads(object_store.get(ERASURE_KEY))) == ["generation"]


def test_a_damaged_mark_is_told_from_none(object_store: ObjectStore):
    object_store.put(ERASURE_KEY, b'{"generation": ')
    with raises_with_details(CorruptData, match="not a valid erasure mark"):
        read_erasure_generation(object_store)
