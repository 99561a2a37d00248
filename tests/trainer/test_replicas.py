"""Who is taken for a living embedder, and when a decision has reached all of them."""

from datetime import UTC, datetime

import pytest

from services.trainer.replicas import ReplicaWatch, Rollout
from services.trainer.versions import Serving
from shared.errors import Unavailable
from shared.registry.replicas import (
    REPLICAS_PREFIX,
    Replica,
    read_replicas,
    remove_replica,
    write_replica,
)
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def replica(instance: str, beat: int = 1, generation: int = 1, error: str = "") -> Replica:
    return Replica(
        instance=instance,
        beat=beat,
        model_version=f"v{generation}",
        generation=generation,
        swap_error=error,
    )


def names(watch: ReplicaWatch) -> list[str]:
    return [each.instance for each in watch.live]


def serving(generation: int) -> Serving:
    return Serving(generation, f"v{generation}", "ada", "why", False, None, datetime.now(UTC))


def test_an_embedder_lives_for_as_long_as_its_heart_beats(object_store: ObjectStore):
    clock = Clock()
    watch = ReplicaWatch(object_store, clock)
    for beat in range(1, 8):
        write_replica(object_store, replica("b", beat))
        if beat == 1:
            write_replica(object_store, replica("a"))
        watch.listen()
        assert names(watch) == (["a", "b"] if clock.now <= 1008 else ["b"])
        clock.now += 2
    write_replica(object_store, replica("a", beat=2))
    watch.listen()
    assert names(watch) == ["a", "b"]


def test_one_that_stops_is_gone_at_once(object_store: ObjectStore):
    watch = ReplicaWatch(object_store)
    for name in ("a", "b"):
        write_replica(object_store, replica(name))
    watch.listen()
    remove_replica(object_store, "a")
    watch.listen()
    assert names(watch) == ["b"]


def test_what_the_dead_left_is_cleared_away(object_store: ObjectStore):
    clock = Clock()
    watch = ReplicaWatch(object_store, clock)
    write_replica(object_store, replica("dead"))
    watch.listen()
    clock.now += 3600
    write_replica(object_store, replica("quick"))
    watch.listen()
    assert [each.instance for each in read_replicas(object_store)] == ["quick"]
    assert names(watch) == ["quick"]


def test_a_damaged_heartbeat_hides_no_other(object_store: ObjectStore):
    object_store.put(f"{REPLICAS_PREFIX}odd.json", b"{")
    write_replica(object_store, replica("a"))
    watch = ReplicaWatch(object_store)
    watch.listen()
    assert names(watch) == ["a"]


def test_with_the_store_away_nobody_is_taken_for_alive_for_long(
    object_store: ObjectStore, object_store_settings: ObjectStoreSettings, monkeypatch
):
    clock = Clock()
    watch = ReplicaWatch(object_store, clock)
    write_replica(object_store, replica("a"))
    watch.listen()
    lost = object_store_settings.model_copy(update={"s3_bucket": "lost-bucket"})
    monkeypatch.setattr(watch, "_objects", ObjectStore(lost))
    with pytest.raises(Unavailable):
        watch.listen()
    assert names(watch) == ["a"]
    clock.now += 60
    assert names(watch) == []


@pytest.mark.parametrize(
    ("decided", "replicas", "complete"),
    [
        (serving(2), [replica("a", generation=2), replica("b", generation=2)], True),
        (serving(2), [replica("a", generation=2), replica("b", generation=1)], False),
        (serving(2), [replica("a", generation=0, error="it is corrupt")], False),
        (serving(2), [], False),
        (None, [replica("a")], False),
    ],
)
def test_a_decision_is_complete_when_all_who_live_follow_it(decided, replicas, complete):
    assert Rollout(decided, tuple(replicas)).complete is complete
