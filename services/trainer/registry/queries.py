"""SQL of versions, serving history and evaluations, in one place so that a test can EXPLAIN it."""
# ruff: noqa: S608

from typing import Final

INSERT_VERSION: Final = """
INSERT INTO trainer.versions (model_version, manifest, gate, job_id)
VALUES (%(model_version)s, %(manifest)s, %(gate)s, %(job_id)s)
"""

SET_GATE: Final = """
UPDATE trainer.versions SET gate = %(gate)s WHERE model_version = %(model_version)s
"""

INSERT_VERDICT: Final = """
INSERT INTO trainer.verdicts (model_version, gate, job_id)
VALUES (%(model_version)s, %(gate)s, %(job_id)s)
"""

GET_VERSION: Final = """
SELECT seq, manifest, gate, job_id FROM trainer.versions WHERE model_version = %(model_version)s
"""

LIST_VERSIONS: Final = """
SELECT seq, manifest, gate, job_id FROM trainer.versions
WHERE seq < coalesce(%(before)s::bigint, 9223372036854775807) ORDER BY seq DESC LIMIT %(size)s
"""

_DECISION: Final = """generation, model_version, who AS requested_by, why AS reason,
    gate_overridden, restores, at, target_fmr, prior"""

INSERT_DECISION: Final = f"""
INSERT INTO trainer.serving_history
    (generation, model_version, who, why, gate_overridden, restores, target_fmr, prior)
SELECT %(generation)s, %(model_version)s, %(requested_by)s, %(reason)s, %(gate_overridden)s,
    %(restores)s, latest.target_fmr, coalesce(latest.prior, 0.5)
FROM (SELECT) AS decision LEFT JOIN (
    SELECT target_fmr, prior FROM trainer.operating_points ORDER BY seq DESC LIMIT 1
) AS latest ON true
RETURNING {_DECISION}
"""

LATEST_DECISION: Final = f"""
SELECT {_DECISION} FROM trainer.serving_history ORDER BY generation DESC LIMIT 1
"""

DECISION: Final = f"""
SELECT {_DECISION} FROM trainer.serving_history WHERE generation = %(generation)s
"""

LIST_DECISIONS: Final = f"""
SELECT {_DECISION} FROM trainer.serving_history
WHERE generation < coalesce(%(before)s::bigint, 9223372036854775807)
ORDER BY generation DESC LIMIT %(size)s
"""

_OPERATING_POINT: Final = """seq, target_fmr, prior, who AS requested_by, why AS reason, at,
    generation"""

INSERT_OPERATING_POINT: Final = f"""
INSERT INTO trainer.operating_points (target_fmr, prior, who, why, generation)
VALUES (%(target_fmr)s, %(prior)s, %(requested_by)s, %(reason)s, %(generation)s)
RETURNING {_OPERATING_POINT}
"""

OPERATING_POINT: Final = f"""
SELECT {_OPERATING_POINT} FROM trainer.operating_points WHERE seq = %(seq)s
"""

LATEST_OPERATING_POINT: Final = f"""
SELECT {_OPERATING_POINT} FROM trainer.operating_points ORDER BY seq DESC LIMIT 1
"""

LIST_OPERATING_POINTS: Final = f"""
SELECT {_OPERATING_POINT} FROM trainer.operating_points
WHERE seq < coalesce(%(before)s::bigint, 9223372036854775807) ORDER BY seq DESC LIMIT %(size)s
"""

LOCK_SERVING_HISTORY: Final = "LOCK TABLE trainer.serving_history IN SHARE ROW EXCLUSIVE MODE"

LOCK_SERVING_POINTER: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('magface serving pointer', 0))
"""

INSERT_EVALUATION: Final = """
INSERT INTO trainer.evaluations (job_id, model_version, result)
VALUES (%(job_id)s, %(model_version)s, %(result)s)
"""

LIST_EVALUATIONS: Final = """
SELECT seq, job_id, at, result FROM trainer.evaluations
WHERE seq < coalesce(%(before)s::bigint, 9223372036854775807) ORDER BY seq DESC LIMIT %(size)s
"""

LIST_EVALUATIONS_OF_VERSION: Final = """
SELECT seq, job_id, at, result FROM trainer.evaluations
WHERE model_version = %(model_version)s
  AND seq < coalesce(%(before)s::bigint, 9223372036854775807)
ORDER BY seq DESC LIMIT %(size)s
"""

JOB_EXISTS: Final = "SELECT FROM trainer.jobs WHERE job_id = %(job_id)s"

FINISHED_TRAINING: Final = """
SELECT job_id FROM trainer.jobs
WHERE job_id = %(job_id)s AND kind = 'train' AND state = 'succeeded'
"""

LATEST_FINISHED_TRAINING: Final = """
SELECT job_id FROM trainer.jobs WHERE kind = 'train' AND state = 'succeeded'
ORDER BY ended_at DESC LIMIT 1
"""
