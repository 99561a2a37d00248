"""Label log: appends labels with their images and pairs, one transaction for a batch."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, Final

from psycopg import AsyncConnection, AsyncCursor

from services.feedback.images.subjects import NamedImage, add_subjects
from services.feedback.images.upload_fence import (
    begin_upload,
    enter_fence,
    read_epoch,
    require_epoch,
)
from services.feedback.images.vault import ImageFacts
from services.feedback.labels import consensus_view, queries
from services.feedback.labels.idempotency import (
    ExistingState,
    read_existing_state,
    submit_result,
)
from services.feedback.labels.types import Submission, SubmitResult
from shared.errors import Conflict, MagFaceError, Unavailable
from shared.storage.postgres import Pool, transaction

_ATTEMPTS: Final = 5

AppendOutcome = SubmitResult | MagFaceError


class LabelLog:
    """Adds rows of labels, with those of their pairs and images.

    Args:
        pool: Connections to a database with the schema `feedback`.
        minimum_votes: With fewer votes a pair has no consensus.
    """

    def __init__(self, pool: Pool, minimum_votes: int) -> None:
        self._pool = pool
        self._minimum_votes = minimum_votes

    async def read_existing(
        self, submission: Submission, *, in_turn: bool
    ) -> tuple[ExistingState, int]:
        """Read what is stored of a submission, and the epoch under which to write its objects.

        Args:
            submission: The label.
            in_turn: Whether to wait for a connection as long as it takes.

        Raises:
            Unavailable: If one of its images is being removed.
        """
        async with (
            transaction(self._pool, in_turn=in_turn) as connection,
            connection.pipeline(),
        ):
            sent = [facts.sha256 for facts in submission.images]
            epoch = await begin_upload(connection, sent)
            return await read_existing_state(connection, [submission]), epoch

    async def require_epoch(self, epoch: int, *, in_turn: bool) -> None:
        """Check that no images were removed since an epoch was read.

        Args:
            epoch: From `read_existing`.
            in_turn: Whether to wait for a connection as long as it takes.

        Raises:
            Conflict: If some were.
        """
        async with transaction(self._pool, in_turn=in_turn) as connection:
            await require_epoch(connection, epoch)

    async def append(self, batch: Sequence[Submission]) -> list[AppendOutcome]:
        """Store a batch; when this returns, every label with a result is durable.

        A submission that is refused does not affect the others. The objects of its images must
        have been written before.

        Returns:
            For each submission its result, or the error it was refused with: NotFound for an
            image that is not stored, PreconditionFailed for an image or a key that was erased on
            request, AlreadyExists for a reused key or for bytes that are stored
            with another alignment or box, Conflict if images were removed since its objects were
            written.

        Raises:
            Unavailable: If the database does not answer, or other writers won five times in a
                row; the batch may be sent again.
        """
        for _ in range(_ATTEMPTS):
            try:
                async with transaction(self._pool) as connection, connection.pipeline():
                    outcomes = await self._append(connection, batch)
                    # Inside the pipeline, so that it is sent with the last statements.
                    await connection.commit()
                return outcomes
            except Conflict:
                # The next attempt reads what the other writer has stored.
                continue
        raise Unavailable("other writers keep storing the same images or keys; send it again")

    async def _append(
        self, connection: AsyncConnection, batch: Sequence[Submission]
    ) -> list[AppendOutcome]:
        entered = await enter_fence(connection)
        state = await read_existing_state(connection, batch)
        epoch = await read_epoch(entered)
        outcomes = [_accept(state, submission, epoch) for submission in batch]
        stored, changes = await self._store(connection, state) if state.accepted else ({}, None)
        results = [
            outcome or _result_of_new(submission, state, stored)
            for submission, outcome in zip(batch, outcomes, strict=True)
        ]
        named = {
            image
            for submission, result in zip(batch, results, strict=True)
            if isinstance(result, SubmitResult)
            for image in submission.subjects
        }
        others = await add_subjects(connection, named)
        if changes is not None:
            await consensus_view.update_counters(
                connection, changes, images=len(state.new_images), labels=len(stored)
            )
        return [
            _with_other_names(submission, result, others)
            for submission, result in zip(batch, results, strict=True)
        ]

    async def _store(
        self, connection: AsyncConnection, state: ExistingState
    ) -> tuple[dict[str, tuple[int, int]], Counter[str]]:
        """Store the accepted submissions.

        Returns:
            The ids of label and pair, by idempotency key, and the changes for the counters.

        Raises:
            Conflict: If another writer has stored one of the images or keys.
        """
        accepted = list(state.accepted.values())
        pair_ids = await _lock_pairs(
            connection, state.new_images, {submission.pair for submission in accepted}
        )
        inserted = await _insert_labels(connection, accepted, pair_ids)
        changes = await consensus_view.update_consensus(
            connection, sorted(pair_ids.values()), self._minimum_votes
        )
        label_ids: dict[str, int] = {key: label_id async for key, label_id in inserted}
        if len(label_ids) < len(accepted):
            raise Conflict("an idempotency key was stored meanwhile")
        ids = {
            submission.idempotency_key: (
                label_ids[submission.idempotency_key],
                pair_ids[submission.pair],
            )
            for submission in accepted
        }
        return ids, changes


def image_columns(images: Collection[ImageFacts]) -> dict[str, list[Any]]:
    """Give the parameters of `queries.INSERT_IMAGES`."""
    return {
        "hashes": [bytes.fromhex(facts.sha256) for facts in images],
        "sizes": [facts.size_bytes for facts in images],
        "media_types": [facts.media_type for facts in images],
        "alignments": [facts.alignment for facts in images],
        "landmarks": [
            _array_text([number for point in facts.landmarks for number in point])
            for facts in images
        ],
        "boxes": [_array_text(astuple(facts.box) if facts.box else ()) for facts in images],
        "perceptual_hashes": [facts.perceptual_hash for facts in images],
        "stored_hashes": [
            bytes.fromhex(facts.stored_sha256) if facts.stored_sha256 else None for facts in images
        ],
    }


def _accept(state: ExistingState, submission: Submission, epoch: int) -> AppendOutcome | None:
    """Give the outcome of a submission that adds nothing; None if it is to be stored."""
    if submission.epoch not in (None, epoch):
        return Conflict("images were removed since the objects of this label were written")
    try:
        return state.accept(submission)
    except MagFaceError as error:
        return error


def _result_of_new(
    submission: Submission, state: ExistingState, stored: dict[str, tuple[int, int]]
) -> SubmitResult:
    key = submission.idempotency_key
    return submit_result(submission, *stored[key], created=state.accepted[key] is submission)


def _with_other_names(
    submission: Submission, result: AppendOutcome, others: Mapping[NamedImage, Sequence[str]]
) -> AppendOutcome:
    images = tuple(sha256 for sha256, name in submission.subjects if (sha256, name) in others)
    if not images or not isinstance(result, SubmitResult):
        return result
    return replace(result, named_otherwise=images)


async def _lock_pairs(
    connection: AsyncConnection,
    new_images: Mapping[str, ImageFacts],
    pairs: Collection[tuple[str, str]],
) -> dict[tuple[str, str], int]:
    """Add the images and pairs that are missing, and lock the rows of the pairs.

    Returns:
        The id of each pair.

    Raises:
        Conflict: If another writer has stored one of the images.
    """
    ordered = sorted(pairs)
    sides = {
        "a": [bytes.fromhex(a) for a, _ in ordered],
        "b": [bytes.fromhex(b) for _, b in ordered],
    }
    images = await connection.execute(queries.INSERT_IMAGES, image_columns(new_images.values()))
    await connection.execute(queries.INSERT_PAIRS, sides)
    locked = await connection.execute(queries.LOCK_PAIRS, sides)
    if len(await images.fetchall()) < len(new_images):
        raise Conflict("an image was stored meanwhile")
    return {(a.hex(), b.hex()): pair_id async for pair_id, a, b in locked}


def _array_text(numbers: Sequence[float]) -> str | None:
    return f"{{{','.join(map(repr, numbers))}}}" if numbers else None


async def _insert_labels(
    connection: AsyncConnection,
    accepted: Sequence[Submission],
    pair_ids: Mapping[tuple[str, str], int],
) -> AsyncCursor:
    opinions = [submission.opinion for submission in accepted]
    return await connection.execute(
        queries.INSERT_LABELS,
        {
            "pairs": [pair_ids[submission.pair] for submission in accepted],
            "annotators": [submission.annotator for submission in accepted],
            "labels": [submission.label.value for submission in accepted],
            "keys": [submission.idempotency_key for submission in accepted],
            "versions": [opinion and opinion.model_version for opinion in opinions],
            "similarities": [opinion and opinion.similarity for opinion in opinions],
            "thresholds": [opinion and opinion.threshold for opinion in opinions],
            "surenesses": [submission.sureness for submission in accepted],
        },
    )
