"""Which embedders are live, and when a rollout is complete."""

from datetime import UTC, datetime

import pytest

from services.trainer.api.response_converters import pack_rollout
from services.trainer.registry.replicas import ReplicaWatch, Rollout
from services.trainer.registry.versions import ServingDecision
from shared.errors import Unavailable
from shared.registry.heartbeats import (
    REPLICAS_PREFIX,
    Replica,
    read_replicas,
    remove_replica,
    write_replica,
)
from shared.registry.shadow_pointer import SHADOW_KEY, ShadowPointer, clear_shadow, write_shadow
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


def trying(
    instance: str,
    pairs: int,
    agreement: float,
    shift: float,
    *,
    error: str = "",
    generation: int = 2,
) -> Replica:
    """An embedder that evaluates the version `new` in the shadow."""
    found = {
        "shadow_version": "new",
        "shadow_pairs": pairs,
        "shadow_agreement": agreement,
        "shadow_similarity_shift": shift,
        "shadow_error": error,
    }
    return replica(instance, generation=generation).model_copy(update=found)


def names(watch: ReplicaWatch) -> list[str]:
    return [each.instance for each in watch.live]


def serving(generation: int) -> ServingDecision:
    return ServingDecision(
        generation, f"v{generation}", "ada", "why", False, None, datetime.now(UTC)
    )


def test_an_embedder_lives_for_as_long_as_its_heart_beats(object_store: ObjectStore):
    clock = Clock()
    watch = ReplicaWatch(object_store, clock)
    for beat in range(1, 8):
        write_replica(object_store, replica("b", beat))
        if beat == 1:
            write_replica(object_store, replica("a"))
        watch.read()
        assert names(watch) == (["a", "b"] if clock.now <= 1008 else ["b"])
        clock.now += 2
    write_replica(object_store, replica("a", beat=2))
    watch.read()
    assert names(watch) == ["a", "b"]


def test_one_that_stops_is_gone_at_once(object_store: ObjectStore):
    watch = ReplicaWatch(object_store)
    for name in ("a", "b"):
        write_replica(object_store, replica(name))
    watch.read()
    remove_replica(object_store, "a")
    watch.read()
    assert names(watch) == ["b"]


def test_what_the_dead_left_is_cleared_away(object_store: ObjectStore):
    clock = Clock()
    watch = ReplicaWatch(object_store, clock)
    write_replica(object_store, replica("dead"))
    watch.read()
    clock.now += 3600
    write_replica(object_store, replica("quick"))
    watch.read()
    assert [each.instance for each in read_replicas(object_store)] == ["quick"]
    assert names(watch) == ["quick"]


def test_a_damaged_heartbeat_hides_no_other(object_store: ObjectStore):
    object_store.put(f"{REPLICAS_PREFIX}odd.json", b"{")
    write_replica(object_store, replica("a"))
    watch = ReplicaWatch(object_store)
    watch.read()
    assert names(watch) == ["a"]


def test_with_the_store_away_nobody_is_taken_for_alive_for_long(
    object_store: ObjectStore, object_store_settings: ObjectStoreSettings, monkeypatch
):
    clock = Clock()
    watch = ReplicaWatch(object_store, clock)
    write_replica(object_store, replica("a"))
    watch.read()
    lost = object_store_settings.model_copy(update={"s3_bucket": "lost-bucket"})
    monkeypatch.setattr(watch, "_objects", ObjectStore(lost))
    with pytest.raises(Unavailable):
        watch.read()
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


def test_each_comparison_of_the_candidate_counts_the_same_wherever_it_was_made():
    replicas = (trying("a", 30, 0.9, 0.02), trying("b", 10, 0.5, -0.1), replica("idle"))
    packed = pack_rollout(Rollout(serving(2), replicas, "new"))
    assert (packed.shadow.model_version, packed.shadow.pairs) == ("new", 40)
    assert packed.shadow.agreement == pytest.approx(0.8)
    assert packed.shadow.similarity_shift == pytest.approx(-0.01)
    assert packed.shadow.error == ""
    a, b, idle = packed.replicas
    assert (a.shadow.pairs, b.shadow.pairs) == (30, 10)
    assert a.shadow.agreement == pytest.approx(0.9)
    assert b.shadow.similarity_shift == pytest.approx(-0.1)
    assert not idle.HasField("shadow")


def test_what_was_held_against_another_version_or_of_another_candidate_does_not_count():
    late = trying("late", 100, 0.0, 1.0, generation=1)
    other = trying("other", 100, 0.0, 1.0).model_copy(update={"shadow_version": "older"})
    report = Rollout(serving(2), (trying("a", 4, 0.75, 0.1), late, other), "new").shadow
    assert (report.pairs, report.agreement) == (4, 0.75)
    assert report.similarity_shift == pytest.approx(0.1)


def test_an_embedder_that_cannot_try_the_candidate_is_named():
    replicas = (
        trying("a", 3, 1.0, 0.0),
        trying("b", 0, 0.0, 0.0, error="CorruptData: half a file"),
    )
    report = Rollout(serving(2), replicas, "new").shadow
    assert (report.pairs, report.error) == (3, "b: CorruptData: half a file")


@pytest.mark.parametrize("candidate", ["", "v2"])
def test_without_a_candidate_or_while_it_serves_nothing_is_in_the_shadow(candidate: str):
    packed = pack_rollout(Rollout(serving(2), (trying("a", 3, 1.0, 0.0),), candidate))
    assert not packed.HasField("shadow")


def test_a_candidate_that_nobody_has_tried_yet_is_shown_with_no_pairs():
    report = Rollout(serving(2), (replica("a", generation=2),), "new").shadow
    assert (report.model_version, report.pairs, report.agreement) == ("new", 0, 0.0)


def test_the_candidate_is_the_one_that_the_registry_names(object_store: ObjectStore):
    watch = ReplicaWatch(object_store)
    write_shadow(object_store, ShadowPointer(model_version="new"))
    watch.read()
    assert watch.candidate == "new"
    object_store.put(SHADOW_KEY, b"{")
    write_replica(object_store, replica("a"))
    watch.read()
    assert (watch.candidate, names(watch)) == ("", ["a"])
    clear_shadow(object_store)
    watch.read()
    assert watch.candidate == ""


def test_a_heartbeat_keeps_what_the_shadow_found_and_without_one_is_as_it_was(
    object_store: ObjectStore,
):
    written = trying("a", 7, 0.5, -0.25, error="it failed once")
    write_replica(object_store, written)
    write_replica(object_store, replica("b"))
    assert read_replicas(object_store) == [written, replica("b")]
    assert b"shadow" not in object_store.get(f"{REPLICAS_PREFIX}b.json")
