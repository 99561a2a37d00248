"""The shadow pointer."""

import pytest

from shared.errors import CorruptData
from shared.registry.shadow_pointer import (
    SHADOW_KEY,
    ShadowPointer,
    clear_shadow,
    read_shadow,
    write_shadow,
)
from shared.storage.objects import ObjectStore


def test_the_candidate_is_read_back_until_it_is_replaced_or_cleared(object_store: ObjectStore):
    assert read_shadow(object_store) is None
    for version in ("iresnet18-a", "iresnet18-b"):
        write_shadow(object_store, ShadowPointer(model_version=version))
        assert read_shadow(object_store) == ShadowPointer(model_version=version)
    clear_shadow(object_store)
    clear_shadow(object_store)
    assert read_shadow(object_store) is None


def test_a_damaged_pointer_is_told_from_none(object_store: ObjectStore):
    object_store.put(SHADOW_KEY, b"{}")
    with pytest.raises(CorruptData, match="not a valid shadow pointer"):
        read_shadow(object_store)
