"""Evaluations of model versions: figures in Postgres, HTML reports in the object store."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from services.trainer.evaluation.result import EvaluationResult
from services.trainer.registry import queries
from shared.errors import NotFound
from shared.registry.evaluation_pages import page_key
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation and the job that made it.

    Attributes:
        seq: Number of the evaluation, rising.
    """

    seq: int
    job_id: UUID
    at: datetime
    result: EvaluationResult


class EvaluationStore:
    """Reads evaluations and their reports.

    Args:
        pool: Connections to a database with the schema `trainer`.
        objects: Where the reports are.
    """

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def list(
        self, size: int, before: int | None = None, model_version: str | None = None
    ) -> Sequence[StoredEvaluation]:
        """List up to `size` evaluations, newest first.

        Args:
            size: How many.
            before: Only those with a smaller `seq`.
            model_version: Only those of this version.

        Raises:
            Unavailable: If Postgres cannot be reached.
        """
        query = queries.LIST_EVALUATIONS_OF_VERSION if model_version else queries.LIST_EVALUATIONS
        values = {"before": before, "model_version": model_version, "size": size}
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query, values)
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
        """Return the HTML report of an evaluation.

        Raises:
            NotFound: If there is no such job, or it made no evaluation.
            Unavailable: If the object store cannot be reached.
        """
        try:
            return await asyncio.to_thread(self._objects.get, page_key(job_id))
        except NotFound as error:
            raise NotFound(f"there is no evaluation of job {job_id}") from error


def describe_result(result: EvaluationResult) -> str:
    """Summarize an evaluation in one line."""
    figures = result.evaluation
    summary = (
        f"{result.model_version} decides {100 * figures.accuracy:.2f} % of {figures.pairs} pairs"
        f" correctly at threshold {figures.threshold:.3f}"
    )
    if result.against is not None:
        test = result.against.comparison.mcnemar
        summary += (
            f"; against {result.against.model_version} it fixes {test.fixed} and breaks"
            f" {test.broken} (p = {test.p_value:.2g})"
        )
    if result.pairs_trained_on:
        summary += f"; it was trained on images of {result.pairs_trained_on} of these pairs"
    return summary


async def add_evaluation(
    connection: AsyncConnection, job_id: UUID, result: EvaluationResult
) -> None:
    """Add an evaluation, whose report is stored, in the caller's transaction."""
    await connection.execute(
        queries.INSERT_EVALUATION,
        {
            "job_id": job_id,
            "model_version": result.model_version,
            "result": result.model_dump_json(),
        },
    )
