"""SQL of erasure, sweep and audit log; a test EXPLAINs each query."""

from typing import Final

from services.feedback.images.queries import REMOVAL_LOCK

LOCK_REMOVALS: Final = f"SELECT pg_advisory_xact_lock({REMOVAL_LOCK})"

# One process at a time reads, changes and writes back the objects that are derived from images.
LOCK_DERIVED: Final = f"SELECT pg_advisory_xact_lock({REMOVAL_LOCK} + 1)"
INCREMENT_EPOCH: Final = "UPDATE feedback.removal_epoch SET epoch = epoch + 1"

RECORD_ERASURE: Final = """
INSERT INTO feedback.erasures (request_id, action, actor, asked_for)
VALUES (%(request_id)s, %(action)s, %(actor)s, %(asked_for)s)
ON CONFLICT (request_id) DO NOTHING
"""

ASKED_FOR: Final = """
SELECT action, asked_for FROM feedback.erasures WHERE request_id = %(request_id)s
"""

ERASURE_KEY: Final = "SELECT key FROM feedback.erasure_key"

LIST_IMAGE: Final = """
INSERT INTO feedback.removals (sha256, request_id)
SELECT %(sha256)s::bytea, %(request_id)s
WHERE %(has_object)s OR EXISTS (SELECT FROM feedback.images WHERE sha256 = %(sha256)s)
ON CONFLICT DO NOTHING
"""

LIST_SUBJECT: Final = """
INSERT INTO feedback.removals (sha256, request_id)
SELECT sha256, %(request_id)s FROM feedback.image_subjects WHERE subject = %(subject)s
ON CONFLICT DO NOTHING
"""

LIST_EXPIRED: Final = """
INSERT INTO feedback.removals (sha256, request_id)
SELECT sha256, %(request_id)s FROM feedback.images WHERE stored_at < %(before)s
ORDER BY stored_at LIMIT %(limit)s
ON CONFLICT DO NOTHING
"""

WITHOUT_ROW: Final = """
SELECT sha256 FROM unnest(%(hashes)s::bytea[]) AS found (sha256)
WHERE NOT EXISTS (SELECT FROM feedback.images WHERE images.sha256 = found.sha256)
"""

LIST_ORPHANS: Final = """
INSERT INTO feedback.removals (sha256, request_id)
SELECT sha256, '' FROM unnest(%(hashes)s::bytea[]) AS found (sha256)
WHERE NOT EXISTS (SELECT FROM feedback.images WHERE images.sha256 = found.sha256)
ON CONFLICT DO NOTHING
"""

REOPEN_ERASURE: Final = """
UPDATE feedback.erasures SET finished_at = NULL, copy_holders = NULL
WHERE request_id = %(request_id)s AND finished_at IS NOT NULL
  AND EXISTS (SELECT FROM feedback.removals WHERE removals.request_id = %(request_id)s)
"""

ANY_EXPIRED: Final = """
SELECT stored_at FROM feedback.images WHERE stored_at < %(before)s ORDER BY stored_at LIMIT 1
"""

NEXT_REMOVALS: Final = """
SELECT sha256 FROM feedback.removals
WHERE request_id = %(request_id)s
  AND (taken_at IS NULL OR taken_at < clock_timestamp() - make_interval(secs => %(lease_s)s))
ORDER BY sha256 LIMIT %(limit)s
"""

STILL_LISTED: Final = """
SELECT sha256 FROM feedback.removals
WHERE request_id = %(request_id)s AND sha256 = ANY(%(hashes)s::bytea[])
"""

# Of two processes that take the same rows, the second waits for the first and gets none.
TAKE_REMOVALS: Final = """
UPDATE feedback.removals SET taken_by = %(token)s, taken_at = clock_timestamp()
WHERE request_id = %(request_id)s AND sha256 = ANY(%(hashes)s::bytea[])
  AND (taken_at IS NULL OR taken_at < clock_timestamp() - make_interval(secs => %(lease_s)s))
RETURNING sha256
"""

FORGET_REMOVALS: Final = """
DELETE FROM feedback.removals
WHERE request_id = %(request_id)s AND sha256 = ANY(%(hashes)s::bytea[])
  AND taken_by = %(token)s
"""

REMOVALS_LEFT: Final = """
SELECT EXISTS (SELECT FROM feedback.removals WHERE request_id = %(request_id)s)
"""

ALLOW_REMOVAL: Final = "SELECT set_config('feedback.erasing', 'on', true)"

PAIRS_OF_IMAGES: Final = """
SELECT pair_id, image_a, image_b FROM feedback.pairs WHERE image_a = ANY(%(hashes)s::bytea[])
UNION
SELECT pair_id, image_a, image_b FROM feedback.pairs WHERE image_b = ANY(%(hashes)s::bytea[])
LIMIT %(limit)s
"""

DELETE_LABELS: Final = """
WITH gone AS (
    DELETE FROM feedback.labels WHERE pair_id = ANY(%(pairs)s::bigint[])
    RETURNING pair_id, label_id, idempotency_key
)
SELECT pair_id, count(*), min(label_id), array_agg(idempotency_key) FROM gone GROUP BY pair_id
"""

DELETE_CONSENSUS: Final = """
DELETE FROM feedback.pair_consensus WHERE pair_id = ANY(%(pairs)s::bigint[]) RETURNING consensus
"""

DELETE_PAIRS: Final = "DELETE FROM feedback.pairs WHERE pair_id = ANY(%(pairs)s::bigint[])"

USES: Final = """
SELECT first_label_id FROM feedback.image_uses WHERE sha256 = ANY(%(hashes)s::bytea[])
"""

RECORD_USES: Final = """
INSERT INTO feedback.image_uses (sha256, first_label_id)
SELECT * FROM unnest(%(hashes)s::bytea[], %(firsts)s::bigint[])
ON CONFLICT (sha256) DO UPDATE
SET first_label_id = least(image_uses.first_label_id, excluded.first_label_id)
"""

DELETE_IMAGES: Final = "DELETE FROM feedback.images WHERE sha256 = ANY(%(hashes)s::bytea[])"

# What retention removes by its age may be stored again.
ADD_TOMBSTONES: Final = """
INSERT INTO feedback.tombstones (digest)
SELECT DISTINCT sha256(key || mark) AS digest
FROM unnest(%(marks)s::bytea[]) AS mark CROSS JOIN feedback.erasure_key
WHERE EXISTS (SELECT FROM feedback.erasures
              WHERE request_id = %(request_id)s AND action <> 'retention')
ORDER BY digest
ON CONFLICT (digest) DO UPDATE SET erased_at = excluded.erased_at
"""

FORGET_TOMBSTONES: Final = """
DELETE FROM feedback.tombstones WHERE erased_at <= now() - make_interval(days => %(days)s)
"""

RECORD_SNAPSHOTS: Final = """
INSERT INTO feedback.erasure_snapshots (request_id, snapshot_id)
SELECT %(request_id)s, snapshot_id FROM feedback.snapshots
WHERE max_label_id >= %(first_label_id)s
ON CONFLICT DO NOTHING
"""

COUNT_ERASED: Final = """
UPDATE feedback.erasures
SET images = images + %(images)s, pairs = pairs + %(pairs)s, labels = labels + %(labels)s
WHERE request_id = %(request_id)s
"""

ERASURE: Final = """
SELECT request_id, action, actor, images, pairs, labels, finished_at
FROM feedback.erasures WHERE request_id = %(request_id)s
"""

ERASED_SNAPSHOTS: Final = """
SELECT snapshot_id FROM feedback.erasure_snapshots WHERE request_id = %(request_id)s
ORDER BY snapshot_id
"""

UNFINISHED: Final = """
SELECT request_id FROM feedback.erasures WHERE finished_at IS NULL ORDER BY asked_at
"""

COPY_HOLDERS: Final = """
SELECT copy_holders FROM feedback.erasures WHERE request_id = %(request_id)s
"""

SET_COPY_HOLDERS: Final = """
UPDATE feedback.erasures SET copy_holders = %(holders)s WHERE request_id = %(request_id)s
"""

FINISH_ERASURE: Final = """
UPDATE feedback.erasures SET finished_at = now()
WHERE request_id = %(request_id)s AND finished_at IS NULL
  AND NOT EXISTS (SELECT FROM feedback.removals WHERE removals.request_id = %(request_id)s)
RETURNING request_id
"""

AUDIT: Final = """
INSERT INTO feedback.audit (actor, action, request_id, detail)
VALUES (%(actor)s, %(action)s, %(request_id)s, %(detail)s)
"""

LIST_AUDIT: Final = """
SELECT audit_id, at, actor, action, request_id, detail FROM feedback.audit
WHERE audit_id < %(before)s ORDER BY audit_id DESC LIMIT %(limit)s
"""
