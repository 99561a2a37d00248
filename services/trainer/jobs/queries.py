"""SQL of the job queue, in one place so that a test can EXPLAIN all of it."""
# ruff: noqa: S608

from typing import Final

INSERT_JOB: Final = """
INSERT INTO trainer.jobs (job_id, kind, spec, requested_by)
VALUES (%(job_id)s, %(kind)s, %(spec)s, %(requested_by)s) RETURNING *
"""

INSERT_EVENT: Final = """
INSERT INTO trainer.job_events (job_id, state, progress, message, figures, stages_entered)
VALUES (%(job_id)s, %(state)s, %(progress)s, %(message)s, %(figures)s, %(stages_entered)s)
"""

COUNT_QUEUED: Final = "SELECT count(*) FROM trainer.jobs WHERE state = 'queued'"

GET_JOB: Final = "SELECT * FROM trainer.jobs WHERE job_id = %(job_id)s"

# The import of a file with the same options that has not failed; the name of the file is no option.
SAME_IMPORT: Final = """
SELECT * FROM trainer.jobs
WHERE kind = 'import' AND spec ->> 'upload' = %(upload)s AND spec - 'file_name' = %(content)s
  AND state IN ('queued', 'running', 'succeeded')
ORDER BY seq DESC LIMIT 1
"""

LOCK_JOB: Final = f"{GET_JOB} FOR UPDATE"

LIST_JOBS: Final = """
SELECT * FROM trainer.jobs WHERE seq < coalesce(%(before)s::bigint, 9223372036854775807)
ORDER BY seq DESC LIMIT %(size)s
"""

EVENTS_AFTER: Final = """
SELECT event_id, at, state, progress, message, figures, stages_entered FROM trainer.job_events
WHERE job_id = %(job_id)s AND event_id > %(after)s ORDER BY event_id
"""

CANCEL_QUEUED: Final = """
UPDATE trainer.jobs
SET cancelled_by = %(requested_by)s, message = 'cancelled by ' || %(requested_by)s::text,
    state = 'cancelled', ended_at = now()
WHERE job_id = %(job_id)s RETURNING *
"""

REQUEST_CANCELLATION: Final = """
UPDATE trainer.jobs
SET cancelled_by = %(requested_by)s, message = 'being cancelled by ' || %(requested_by)s::text
WHERE job_id = %(job_id)s RETURNING *
"""

# Transactions that overlap may write in another order than they began in.
_APPEND_STAGE: Final = """stages || jsonb_build_object(
        'stage', %(stage)s::text,
        'started_at', greatest(now(), (stages -> -1 ->> 'started_at')::timestamptz)
    )"""
_ENTER_STAGE: Final = f"""CASE WHEN stages -> -1 ->> 'stage' = %(stage)s::text THEN stages
    ELSE {_APPEND_STAGE} END"""
_LEASE_END: Final = "now() + make_interval(secs => %(lease_s)s)"
# Only the latest claim of a running job may write.
_CLAIMED: Final = "job_id = %(job_id)s AND fencing_token = %(token)s AND state = 'running'"

# The oldest job that waits, or whose lease has expired.
CLAIM_JOB: Final = f"""
UPDATE trainer.jobs
SET state = 'running', attempts = attempts + 1, fencing_token = fencing_token + 1,
    lease_expires_at = {_LEASE_END}, started_at = coalesce(started_at, now()),
    message = CASE WHEN started_at IS NULL THEN 'started' ELSE 'started again' END,
    stages = {_APPEND_STAGE},
    base_version = CASE WHEN data_snapshot IS NOT NULL THEN base_version ELSE (
        SELECT model_version FROM trainer.serving_history ORDER BY generation DESC LIMIT 1
    ) END,
    target_fmr = CASE WHEN data_snapshot IS NOT NULL THEN target_fmr ELSE (
        SELECT target_fmr FROM trainer.operating_points ORDER BY seq DESC LIMIT 1
    ) END
WHERE job_id = (
    SELECT job_id FROM trainer.jobs
    WHERE (state = 'queued' AND not_before <= now())
       OR (state = 'running' AND lease_expires_at <= now())
    ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *
"""

LOCK_CLAIMED: Final = f"""
SELECT coalesce(extract(epoch FROM now() - blocked_since), 0)::float8 AS blocked_s
FROM trainer.jobs WHERE {_CLAIMED} FOR NO KEY UPDATE
"""

RENEW_LEASE: Final = f"""
UPDATE trainer.jobs SET lease_expires_at = {_LEASE_END} WHERE {_CLAIMED} RETURNING *
"""

RECORD_PROGRESS: Final = f"""
UPDATE trainer.jobs
SET progress = %(progress)s, message = %(message)s, stages = {_ENTER_STAGE},
    blocked_since = CASE WHEN %(progress)s > furthest THEN NULL ELSE blocked_since END,
    furthest = greatest(%(progress)s, furthest)
WHERE {_CLAIMED} RETURNING *
"""

ENTER_STAGE: Final = f"""
UPDATE trainer.jobs SET message = %(message)s, stages = {_ENTER_STAGE}
WHERE {_CLAIMED} RETURNING *
"""

SET_MESSAGE: Final = f"""
UPDATE trainer.jobs SET message = %(message)s WHERE {_CLAIMED} RETURNING *
"""

SET_SNAPSHOT: Final = f"""
UPDATE trainer.jobs SET data_snapshot = %(snapshot_id)s WHERE {_CLAIMED} RETURNING *
"""

RELEASE: Final = f"""
UPDATE trainer.jobs
SET state = 'queued', lease_expires_at = NULL, message = %(message)s, stages = {_ENTER_STAGE},
    attempts = attempts - 1
WHERE {_CLAIMED} RETURNING *
"""

RETRY_LATER: Final = f"""
UPDATE trainer.jobs
SET state = 'queued', lease_expires_at = NULL, message = %(message)s, stages = {_ENTER_STAGE},
    attempts = attempts - 1, blocked_since = coalesce(blocked_since, now()),
    not_before = now() + make_interval(secs => %(delay_s)s)
WHERE {_CLAIMED} RETURNING *
"""

FINISH_JOB: Final = f"""
UPDATE trainer.jobs
SET state = %(state)s, ended_at = now(), lease_expires_at = NULL, message = %(message)s,
    model_version = %(model_version)s, gate = %(gate)s,
    progress = CASE WHEN %(state)s = 'succeeded' THEN 1 ELSE progress END
WHERE {_CLAIMED} RETURNING *
"""

OPEN_JOBS: Final = """
SELECT job_id::text, spec ->> 'upload' FROM trainer.jobs WHERE state IN ('queued', 'running')
"""

LOCK_BOOTSTRAP: Final = "SELECT pg_advisory_xact_lock(hashtextextended('magface first start', 0))"

VERSION_OR_BOOTSTRAP_JOB: Final = """
SELECT 1 FROM trainer.versions
UNION ALL
SELECT 1 FROM trainer.jobs
WHERE (spec ->> 'promote_if_first')::boolean AND state IN ('queued', 'running')
LIMIT 1
"""
