"""What was measured of model versions: figures in Postgres, pages in the object store."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from services.trainer.evaluation.result import EvaluationResult
from shared.errors import NotFound
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction


@dataclass(frozen=True)
class StoredEvaluation:
    """A result, and the job that found it; `seq` rises with every one."""

    seq: int
    job_id: UUID
    at: datetime
    result: EvaluationResult


class Evaluations:
    """Looks results and their pages up.

    Args:
        pool: Connections to a database with the schema `trainer`.
        objects: Where the pages are.
    """

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def list(
        self, size: int, before: int | None = None, model_version: str | None = None
    ) -> Sequence[StoredEvaluation]:
        """List up to `size` results, newest first, those with a `seq` under `before` only.

        Raises:
            Unavailable: If Postgres cannot be reached.
        """
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                "SELECT * FROM trainer.evaluations"
                " WHERE (%(before)s::bigint IS NULL OR seq < %(before)s)"
                " AND (%(version)s::text IS NULL OR model_version = %(version)s)"
                " ORDER BY seq DESC LIMIT %(size)s",
                {"before": before, "version": model_version, "size": size},
            )
            return [
                StoredEvaluation(
                    seq=row["seq"],
                    job_id=row["job_id"],
                    at=row["at"],
                    result=EvaluationResult.model_validate(row["result"]),
                )
                async for row in cursor
            ]

    async def report(self, job_id: UUID) -> bytes:
        """Give the page of a job's result.

        Raises:
            NotFound: If the job is unknown or has measured nothing.
            Unavailable: If the object store cannot be reached.
        """
        try:
            return await asyncio.to_thread(self._objects.get, report_key(job_id))
        except NotFound as error:
            raise NotFound(f"there is no evaluation of job {job_id}") from error


def report_key(job_id: UUID) -> str:
    """Name the object of a job's page."""
    return f"evaluations/{job_id}/report.html"


def describe_result(result: EvaluationResult) -> str:
    """Say in a line how the version did, and how far that can be trusted."""
    figures = result.evaluation
    said = (
        f"{result.model_version} decides {100 * figures.accuracy:.2f} % of {figures.pairs} pairs"
        f" rightly at {figures.threshold:.3f}"
    )
    if result.against is not None:
        test = result.against.comparison.mcnemar
        said += (
            f"; against {result.against.model_version} it fixes {test.fixed} and breaks"
            f" {test.broken} (p = {test.p_value:.2g})"
        )
    if result.pairs_trained_on:
        said += f"; it was trained on images of {result.pairs_trained_on} of these pairs"
    return said


async def add_evaluation(
    connection: AsyncConnection, job_id: UUID, result: EvaluationResult
) -> None:
    """Add a result, whose page is stored, within the caller's transaction."""
    await connection.execute(
        "INSERT INTO trainer.evaluations (job_id, model_version, result) VALUES (%s, %s, %s)",
        (job_id, result.model_version, result.model_dump_json()),
    )
