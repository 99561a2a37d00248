"""Promotions and rollbacks, each with its requester and reason."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from services.trainer.registry.versions import VersionRegistry, add_version, append_decision
from shared.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from shared.model.manifest import MANIFEST_FILE, ONNX_FILE
from shared.registry.version_store import VersionStore
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction
from tests.services.trainer.samples import PASSED, REFUSED, UNDECIDED, add_sample
from tests.shared.registry.versions import write_version
from tests.support.postgres import blocked_sessions
from tests.support.waiting import until


async def test_a_version_is_kept_with_its_verdict(pool: Pool, versions: VersionRegistry):
    job = await add_sample(pool, "v1", PASSED)
    version = await versions.get("v1")
    assert (version.name, version.gate, version.job_id) == ("v1", PASSED, job.job_id)
    with pytest.raises(NotFound, match="v2"):
        await versions.get("v2")


async def test_versions_are_listed_newest_first_and_in_pages(pool: Pool, versions: VersionRegistry):
    for name in ("v1", "v2", "v3"):
        await add_sample(pool, name)
    newest = await versions.list(2)
    assert [version.name for version in newest] == ["v3", "v2"]
    older = await versions.list(2, before=newest[-1].seq)
    assert [version.name for version in older] == ["v1"]


async def test_each_promotion_adds_a_generation_with_who_and_why(
    pool: Pool, versions: VersionRegistry
):
    await add_sample(pool, "v1")
    await add_sample(pool, "v2", PASSED)
    assert await versions.serving() is None
    await versions.promote("v1", requested_by="ada", reason="first")
    await versions.promote("v2", requested_by="bob", reason="better")
    serving = await versions.serving()
    assert (serving.generation, serving.requested_by, serving.reason) == (2, "bob", "better")
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT generation, model_version, who, why FROM trainer.serving_history ORDER BY 1"
        )
        entries = await cursor.fetchall()
    assert entries == [(1, "v1", "ada", "first"), (2, "v2", "bob", "better")]


async def test_the_history_is_listed_newest_first_and_in_pages(
    pool: Pool, versions: VersionRegistry
):
    await add_sample(pool, "v1")
    await add_sample(pool, "v2", PASSED)
    await versions.promote("v1", requested_by="ada", reason="first")
    await versions.promote("v2", requested_by="bob", reason="better")
    await versions.rollback(requested_by="eve", reason="worse")
    newest = await versions.history(2)
    assert [(one.generation, one.requested_by, one.restores) for one in newest] == [
        *((3, "eve", 1), (2, "bob", None)),
    ]
    (oldest,) = await versions.history(2, before=2)
    assert (oldest.model_version, oldest.reason) == ("v1", "first")


async def test_promoting_what_serves_changes_nothing(pool: Pool, versions: VersionRegistry):
    await add_sample(pool, "v1")
    first = await versions.promote("v1", requested_by="ada", reason="")
    assert await versions.promote("v1", requested_by="bob", reason="again") == first


async def test_an_unknown_version_is_not_promoted(versions: VersionRegistry):
    with pytest.raises(NotFound, match="v9"):
        await versions.promote("v9", requested_by="ada", reason="")
    assert await versions.serving() is None


@pytest.mark.parametrize("expected", [None, 1])
async def test_of_two_promotions_at_once_one_wins(
    pool: Pool, versions: VersionRegistry, database_url: str, expected: int | None
):
    names = [f"v{number}" for number in range(9)]
    for name in names:
        await add_sample(pool, name)
    await versions.promote("v0", requested_by="ada", reason="")
    # The lock makes them overlap: all have read generation 1 before any can write.
    async with pool.connection() as connection:
        await connection.execute("LOCK TABLE trainer.serving_history IN SHARE MODE")
        racing = [
            asyncio.create_task(
                versions.promote(
                    name, requested_by=name, reason="race", expected_generation=expected
                )
            )
            for name in names[1:5]
        ]
        await until(lambda: blocked_sessions(database_url) == len(racing))
    results = await asyncio.gather(*racing, return_exceptions=True)
    winners = [result for result in results if not isinstance(result, Exception)]
    assert len(winners) == 1
    assert all(isinstance(r, Conflict) for r in results if r is not winners[0])
    assert await versions.serving() == winners[0]
    assert winners[0].generation == 2


async def test_an_outdated_expectation_is_refused(pool: Pool, versions: VersionRegistry):
    await add_sample(pool, "v1")
    await add_sample(pool, "v2")
    await versions.promote("v1", requested_by="ada", reason="", expected_generation=0)
    with pytest.raises(Conflict, match="generation 1 serves, not 0"):
        await versions.promote("v2", requested_by="ada", reason="", expected_generation=0)


async def test_a_refused_version_needs_an_override_with_a_reason(
    pool: Pool, versions: VersionRegistry
):
    await add_sample(pool, "v1", REFUSED)
    with pytest.raises(PreconditionFailed, match=r"heldout_errors nan against 0\.1"):
        await versions.promote("v1", requested_by="ada", reason="I like it")
    with pytest.raises(InvalidInput, match="reason"):
        await versions.promote("v1", requested_by="ada", reason="", override_gate=True)
    assert await versions.serving() is None
    serving = await versions.promote(
        "v1", requested_by="ada", reason="I like it", override_gate=True
    )
    assert (serving.gate_overridden, serving.reason) == (True, "I like it")
    assert await versions.serving() == serving


async def test_a_version_that_was_never_measured_needs_an_override_with_a_reason(
    pool: Pool, versions: VersionRegistry
):
    await add_sample(pool, "v1", None)
    with pytest.raises(PreconditionFailed, match=r"v1 was never measured.*magface models import"):
        await versions.promote("v1", requested_by="ada", reason="it served elsewhere")
    assert await versions.serving() is None
    serving = await versions.promote(
        "v1", requested_by="ada", reason="it served elsewhere", override_gate=True
    )
    assert (serving.gate_overridden, serving.reason) == (True, "it served elsewhere")


async def test_a_version_that_served_unmeasured_can_be_restored(
    pool: Pool, versions: VersionRegistry
):
    await add_sample(pool, "v1", None)
    await add_sample(pool, "v2")
    async with transaction(pool) as connection:
        # As an earlier release recorded it.
        await append_decision(connection, None, "v1", requested_by="system", reason="first")
    await versions.promote("v2", requested_by="ada", reason="better")
    back = await versions.rollback(requested_by="ada", reason="worse")
    assert (back.model_version, back.gate_overridden) == ("v1", False)


async def test_a_verdict_at_another_operating_point_does_not_count(
    pool: Pool, versions: VersionRegistry
):
    at_target = replace(PASSED, target_fmr=0.01)
    await add_sample(pool, "v1")
    await add_sample(pool, "v2", at_target, "v1")
    await versions.promote("v1", requested_by="ada", reason="first")
    with pytest.raises(
        PreconditionFailed,
        match=r"judged at a false-match rate of 0\.01, and versions serve at equal error weights;"
        r" judge it again \(`magface models judge v2`\)",
    ):
        await versions.promote("v2", requested_by="ada", reason="better")
    serving = await versions.promote("v2", requested_by="ada", reason="better", override_gate=True)
    assert serving.gate_overridden


async def test_a_version_without_enough_evidence_says_what_is_missing(
    pool: Pool, versions: VersionRegistry
):
    await add_sample(pool, "v1", UNDECIDED)
    with pytest.raises(PreconditionFailed, match=r"not enough evidence for v1 \(41 more people"):
        await versions.promote("v1", requested_by="ada", reason="better")


async def test_an_override_that_was_not_needed_is_not_recorded(
    pool: Pool, versions: VersionRegistry
):
    await add_sample(pool, "v1", PASSED)
    serving = await versions.promote(
        "v1", requested_by="ada", reason="just in case", override_gate=True
    )
    assert not serving.gate_overridden


async def test_rolling_back_goes_back_one_decision_at_a_time(pool: Pool, versions: VersionRegistry):
    for name in ("v1", "v2", "v3"):
        await add_sample(pool, name)
        await versions.promote(name, requested_by="ada", reason="")
    back = [await versions.rollback(requested_by="bob", reason="worse") for _ in range(2)]
    assert [(s.generation, s.model_version, s.restores) for s in back] == [
        (4, "v2", 2),
        (5, "v1", 1),
    ]
    assert (back[0].requested_by, back[0].reason) == ("bob", "worse")
    with pytest.raises(PreconditionFailed, match="before"):
        await versions.rollback(requested_by="bob", reason="worse")


async def test_after_a_rollback_and_a_promotion_the_way_back_is_kept(
    pool: Pool, versions: VersionRegistry
):
    for name in ("v1", "v2", "v3"):
        await add_sample(pool, name)
    await versions.promote("v1", requested_by="ada", reason="")
    await versions.promote("v2", requested_by="ada", reason="")
    await versions.rollback(requested_by="ada", reason="")
    await versions.promote("v3", requested_by="ada", reason="")
    assert (await versions.rollback(requested_by="ada", reason="")).model_version == "v1"
    with pytest.raises(PreconditionFailed):
        await versions.rollback(requested_by="ada", reason="")


async def test_nothing_is_rolled_back_before_the_first_promotion(versions: VersionRegistry):
    with pytest.raises(PreconditionFailed):
        await versions.rollback(requested_by="ada", reason="")


@pytest.mark.parametrize("damage", [ONNX_FILE, MANIFEST_FILE, "size"])
async def test_a_version_whose_files_are_not_in_the_store_does_not_serve(
    pool: Pool, object_store: ObjectStore, tmp_path: Path, damage: str
):
    store = VersionStore(object_store, tmp_path / "cache")
    registry = VersionRegistry(pool, store.require_files)
    for name in ("v1", "v2"):
        job = await add_sample(pool, f"{name}-job")
        manifest = write_version(tmp_path / name, name, size=1000)
        store.publish(tmp_path / name)
        async with transaction(pool) as connection:
            await add_version(connection, manifest, PASSED, job.job_id)
        await registry.promote(name, requested_by="ada", reason="good")
    file = ONNX_FILE if damage == "size" else damage
    content = object_store.get(f"models/v1/{file}")
    if damage == "size":
        object_store.put(f"models/v1/{file}", b"half")
    else:
        object_store.remove(f"models/v1/{file}")
    with pytest.raises(PreconditionFailed, match=f"{file}.*v1"):
        await registry.promote("v1", requested_by="ada", reason="again")
    with pytest.raises(PreconditionFailed, match=f"{file}.*v1"):
        await registry.rollback(requested_by="ada", reason="worse")
    assert (await registry.serving()).model_version == "v2"
    object_store.put(f"models/v1/{file}", content)
    assert (await registry.rollback(requested_by="ada", reason="worse")).model_version == "v1"
