"""Changes of the operating point, each a generation with its requester and reason."""

import asyncio

import pytest

from services.trainer.registry.operating_points import KeptPoint, OperatingPoints
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.versions import VersionRegistry
from shared.errors import AlreadyExists, Conflict, InvalidInput, PreconditionFailed
from shared.registry.serving_pointer import POINTER_KEY, read_pointer
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.services.trainer.samples import PASSED, add_sample


@pytest.fixture
def points(pool: Pool) -> OperatingPoints:
    return OperatingPoints(pool)


async def test_a_change_is_a_generation_of_the_same_version(
    pool: Pool, versions: VersionRegistry, points: OperatingPoints
):
    await add_sample(pool, "v1", PASSED)
    await versions.promote("v1", requested_by="ada", reason="first")
    target, serving = await points.set(0.01, 0.2, requested_by="bob", reason="contract")
    assert (target.target_fmr, target.prior, target.generation) == (0.01, 0.2, 2)
    assert (target.requested_by, target.reason) == ("bob", "contract")
    assert (serving.generation, serving.model_version) == (2, "v1")
    assert (serving.target_fmr, serving.prior) == (0.01, 0.2)
    assert await versions.serving() == serving


async def test_later_promotions_and_rollbacks_keep_it(
    pool: Pool, versions: VersionRegistry, points: OperatingPoints
):
    for name in ("v1", "v2"):
        await add_sample(pool, name, PASSED)
    await points.set(0.01, 0.5, requested_by="ada", reason="before the first version")
    first = await versions.promote("v1", requested_by="ada", reason="")
    await versions.promote("v2", requested_by="ada", reason="")
    await points.set(0.05, 0.5, requested_by="ada", reason="looser")
    back = await versions.rollback(requested_by="ada", reason="")
    assert (first.target_fmr, back.target_fmr) == (0.01, 0.05)
    # The version before v2, not the generation before the change.
    assert back.model_version == "v1"


async def test_rollback_passes_over_every_change(
    pool: Pool, versions: VersionRegistry, points: OperatingPoints
):
    for name in ("v1", "v2", "v3"):
        await add_sample(pool, name, PASSED)
        await versions.promote(name, requested_by="ada", reason="")
        await points.set(0.05 if name == "v2" else 0.01, 0.5, requested_by="ada", reason="")
        await points.set(0.02, 0.5, requested_by="ada", reason="")
    names = [(await versions.rollback(requested_by="ada", reason="")).model_version for _ in "12"]
    assert names == ["v2", "v1"]
    with pytest.raises(PreconditionFailed):
        await versions.rollback(requested_by="ada", reason="")


async def test_the_point_in_force_set_again_changes_nothing(
    pool: Pool, versions: VersionRegistry, points: OperatingPoints
):
    await add_sample(pool, "v1", PASSED)
    await versions.promote("v1", requested_by="ada", reason="")
    first = await points.set(0.01, 0.5, requested_by="ada", reason="a")
    assert await points.set(0.01, 0.5, requested_by="bob", reason="b") == first
    target, serving = await points.set(None, 0.5, requested_by="bob", reason="off")
    assert (target.target_fmr, serving.target_fmr, serving.generation) == (None, None, 3)
    assert [each.reason for each in await points.list(10)] == ["off", "a"]
    assert [each.reason for each in await points.list(1, before=target.seq)] == ["a"]


async def test_a_repeated_call_happens_once(
    pool: Pool, versions: VersionRegistry, points: OperatingPoints
):
    await add_sample(pool, "v1", PASSED)
    await versions.promote("v1", requested_by="ada", reason="")
    call = {"requested_by": "ada", "reason": "", "key": "k"}
    first, _ = await points.set(0.01, 0.5, **call)
    await points.set(0.02, 0.5, requested_by="ada", reason="")
    again, _ = await points.set(0.01, 0.5, **call)
    assert again == first
    with pytest.raises(AlreadyExists):
        await points.set(0.03, 0.5, **call)
    assert (await versions.serving()).target_fmr == 0.02


@pytest.mark.parametrize(
    ("fmr", "prior", "field"),
    [
        *((0.2, 0.5, "target_fmr"), (0.0, 0.5, "target_fmr"), (float("nan"), 0.5, "target_fmr")),
        *((9e-7, 0.5, "target_fmr"), (-0.1, 0.5, "target_fmr"), (float("inf"), 0.5, "target_fmr")),
        *((0.1, 0.0, "prior"), (None, 1.0, "prior"), (0.1, float("nan"), "prior")),
    ],
)
async def test_values_out_of_range_are_refused(
    points: OperatingPoints, fmr: float | None, prior: float, field: str
):
    with pytest.raises(InvalidInput, match=field):
        await points.set(fmr, prior, requested_by="ada", reason="")
    assert await points.list(10) == []


async def test_an_expected_generation_that_is_not_in_force_conflicts(
    pool: Pool, versions: VersionRegistry, points: OperatingPoints
):
    await add_sample(pool, "v1", PASSED)
    await versions.promote("v1", requested_by="ada", reason="")
    with pytest.raises(Conflict, match="generation 1 serves, not 7"):
        await points.set(0.01, 0.5, requested_by="ada", reason="", expected_generation=7)


async def test_changes_and_promotions_at_once_leave_one_point_for_each_generation(
    pool: Pool, versions: VersionRegistry, points: OperatingPoints
):
    names = [f"v{number}" for number in range(6)]
    for name in names:
        await add_sample(pool, name, PASSED)
    await asyncio.gather(
        *(versions.promote(name, requested_by="ada", reason="") for name in names),
        *(points.set(fmr, 0.5, requested_by="ada", reason="") for fmr in (0.01, 0.02, 0.03)),
        return_exceptions=True,
    )
    async with pool.connection() as connection:
        cursor = await connection.execute(
            """SELECT h.generation, h.target_fmr, (
                SELECT p.target_fmr FROM trainer.operating_points p
                WHERE p.generation IS NULL OR p.generation <= h.generation
                ORDER BY p.seq DESC LIMIT 1
            ) FROM trainer.serving_history h ORDER BY 1"""
        )
        rows = await cursor.fetchall()
    assert [generation for generation, _, _ in rows] == list(range(1, len(rows) + 1))
    assert all(served == in_force for _, served, in_force in rows), rows


async def test_the_pointer_carries_it(
    pool: Pool,
    versions: VersionRegistry,
    points: OperatingPoints,
    pointer: ServingPointerPublisher,
    object_store: ObjectStore,
):
    await add_sample(pool, "v1", PASSED)
    await versions.promote("v1", requested_by="ada", reason="")
    await pointer.publish()
    # Embedders of earlier releases refuse a pointer with fields that they do not know.
    assert b"fmr" not in object_store.get(POINTER_KEY)
    await points.set(0.01, 0.3, requested_by="ada", reason="")
    await pointer.publish()
    published = read_pointer(object_store)
    assert (published.generation, published.target_fmr, published.prior) == (2, 0.01, 0.3)


async def test_what_is_kept_is_said(pool: Pool, versions: VersionRegistry, points: OperatingPoints):
    assert await points.kept(await versions.serving()) is None
    await add_sample(pool, "v1", PASSED)
    await versions.promote("v1", requested_by="ada", reason="")
    before = await versions.serving()
    assert await points.kept(before) == KeptPoint("v1", 0.3, None, None, 0)
    _, serving = await points.set(1e-4, 0.5, requested_by="ada", reason="")
    kept = await points.kept(serving)
    assert kept.kept_fmr == 1.5e-3
    assert kept.threshold == pytest.approx(0.7)
    assert kept.missing_people > 100
    # Of the decision that is asked about, whatever serves by now.
    assert await points.kept(before) == KeptPoint("v1", 0.3, None, None, 0)
