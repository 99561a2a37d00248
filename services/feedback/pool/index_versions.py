"""Index versions: the model versions that the pool is embedded with, and their vector indexes."""

from dataclasses import dataclass

from psycopg.rows import TupleRow

from services.feedback.pool import queries
from services.feedback.pool.calibration import Calibration
from services.feedback.pool.embedder_client import ServingModel
from services.feedback.pool.leadership import LeaderConnection
from shared.model.manifest import ProbabilityCurve
from shared.storage.postgres import Pool, fetch, transaction


@dataclass(frozen=True, slots=True)
class IndexVersion:
    """A model version that the pool is embedded with.

    Attributes:
        complete: Whether every image is embedded and the index is built.
    """

    version_id: int
    model_version: str
    dimensions: int
    calibration: Calibration
    complete: bool


async def list_complete(pool: Pool) -> list[IndexVersion]:
    """List the versions that can be searched, newest first; two only during a swap.

    Raises:
        Unavailable: If the database does not answer.
    """
    return [_version(row) for row in await fetch(pool, queries.COMPLETE_VERSIONS, {})]


async def get_or_create(
    pool: Pool, leader: LeaderConnection, model: ServingModel, calibration: Calibration
) -> IndexVersion:
    """Give a model's version, with a partition for its embeddings.

    Raises:
        Unavailable: If the database does not answer.
    """
    named = {"model_version": model.model_version}
    async with transaction(pool) as connection:
        cursor = await connection.execute(queries.VERSION, named)
        row = await cursor.fetchone()
        if row is None:
            curve = calibration.curve
            model_columns = {"dimensions": model.dimensions, "threshold": calibration.threshold}
            curve_columns = {
                "slope": curve and curve.slope,
                "intercept": curve and curve.intercept,
            }
            await connection.execute(queries.ADD_VERSION, named | model_columns | curve_columns)
            cursor = await connection.execute(queries.VERSION, named)
            row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - it was added if it was missing
    version = _version(row)
    if not version.complete:
        await leader.execute(queries.add_partition(version.version_id))
    return version


async def build_index(pool: Pool, leader: LeaderConnection, version: IndexVersion) -> None:
    """Index a version whose embeddings are all stored, and mark it as complete.

    After a crash the index is built again from the start.

    Raises:
        Unavailable: If the database does not answer.
    """
    await leader.execute(queries.drop_index(version.version_id))
    await leader.execute(queries.add_index(version.version_id, version.dimensions))
    async with transaction(pool) as connection:
        await connection.execute(queries.COMPLETE, {"version_id": version.version_id})


async def drop_others(pool: Pool, leader: LeaderConnection, version: IndexVersion) -> None:
    """Drop every other version with its embeddings.

    Raises:
        Unavailable: If the database does not answer.
    """
    others = await fetch(pool, queries.OTHER_VERSIONS, {"version_id": version.version_id})
    for (version_id,) in others:
        await leader.execute(queries.drop_partition(version_id))
        async with transaction(pool) as connection:
            await connection.execute(queries.FORGET_VERSION, {"version_id": version_id})


def _version(row: TupleRow) -> IndexVersion:
    version_id, model_version, dimensions, threshold, slope, intercept, complete = row
    curve = None if slope is None else ProbabilityCurve(slope=slope, intercept=intercept)
    calibration = Calibration(threshold, curve)
    return IndexVersion(version_id, model_version, dimensions, calibration, complete)
