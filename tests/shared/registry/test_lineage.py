"""Versions trained on a snapshot and their descendants; an invalid manifest is skipped."""

import json

from shared.registry.lineage import TrainedVersion, versions_trained_on
from shared.storage.objects import ObjectStore


def _publish(objects: ObjectStore, name: str, parent: str | None, snapshot: str | None) -> None:
    manifest = {"model_version": name, "parent_version": parent, "data_snapshot": snapshot}
    objects.put(f"models/{name}/manifest.json", json.dumps(manifest | {"scale": 1}).encode())


def test_versions_are_found_by_their_snapshot_and_by_their_ancestors(
    object_store: ObjectStore,
) -> None:
    _publish(object_store, "root", None, None)
    _publish(object_store, "learned", "root", "one")
    _publish(object_store, "child", "learned", "two")
    _publish(object_store, "grandchild", "child", None)
    object_store.put("models/broken/manifest.json", b"{}")
    object_store.put("models/learned/model.onnx", b"not read")
    assert versions_trained_on(object_store, ["one", "other"]) == [
        TrainedVersion("child", inherited=True),
        TrainedVersion("grandchild", inherited=True),
        TrainedVersion("learned", inherited=False),
    ]
    assert versions_trained_on(object_store, ["unused"]) == []
    assert versions_trained_on(object_store, []) == []
