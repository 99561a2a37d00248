import json
from datetime import UTC, datetime

import pytest

from shared.errors import CorruptData, Unavailable
from shared.registry.serving_pointer import POINTER_KEY, ServingPointer, read_pointer, write_pointer
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.support.details import raises_with_details


def test_before_the_first_decision_there_is_none(object_store: ObjectStore) -> None:
    assert read_pointer(object_store) is None


def test_last_written_is_read(object_store: ObjectStore) -> None:
    for generation in (1, 2):
        pointer = ServingPointer(
            model_version=f"iresnet18-{generation}",
            generation=generation,
            published_at=datetime.now(UTC),
        )
        write_pointer(object_store, pointer)
        assert read_pointer(object_store) == pointer


def test_a_pointer_without_an_operating_point_is_that_of_an_earlier_release(
    object_store: ObjectStore,
) -> None:
    written = {"model_version": "v1", "generation": 3, "published_at": "2026-01-01T00:00:00Z"}
    object_store.put(POINTER_KEY, json.dumps(written).encode())
    pointer = read_pointer(object_store)
    assert pointer is not None
    assert (pointer.target_fmr, pointer.prior) == (None, 0.5)
    write_pointer(object_store, pointer)
    assert json.loads(object_store.get(POINTER_KEY)) == written
    changed = pointer.model_copy(update={"target_fmr": 1e-3, "prior": 0.01})
    write_pointer(object_store, changed)
    assert read_pointer(object_store) == changed


@pytest.mark.parametrize("change", ['"target_fmr": NaN', '"target_fmr": 0.2', '"prior": 1'])
def test_an_operating_point_out_of_range_is_corrupt(object_store: ObjectStore, change: str) -> None:
    start = '{"model_version": "v1", "generation": 3, "published_at": "2026-01-01T00:00:00Z", '
    object_store.put(POINTER_KEY, (start + change + "}").encode())
    with raises_with_details(CorruptData, match=POINTER_KEY):
        read_pointer(object_store)


@pytest.mark.parametrize("data", [b"", b"{", b'{"model_version": "x"}', b"\xff\xfe"])
def test_damaged_pointer_is_corrupt_and_named(object_store: ObjectStore, data: bytes) -> None:
    object_store.put(POINTER_KEY, data)
    with raises_with_details(CorruptData, match=POINTER_KEY):
        read_pointer(object_store)


def test_lost_bucket_is_not_taken_for_no_decision(
    object_store_settings: ObjectStoreSettings,
) -> None:
    settings = object_store_settings.model_copy(update={"s3_bucket": "lost-bucket"})
    with pytest.raises(Unavailable):
        read_pointer(ObjectStore(settings))
