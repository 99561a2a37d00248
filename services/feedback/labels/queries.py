"""SQL of labels, consensus and snapshots; a test EXPLAINs each query."""

from typing import Final

IMAGES: Final = """
SELECT sha256, size_bytes, media_type, alignment, landmarks, box, stored_at, stored_sha256
FROM feedback.images WHERE sha256 = ANY(%(hashes)s::bytea[])
"""

LABELS_BY_KEY: Final = """
SELECT label_id, pair_id, image_a, image_b, label, annotator, idempotency_key,
       sureness, model_version, similarity, threshold
FROM feedback.labels JOIN feedback.pairs USING (pair_id)
WHERE idempotency_key = ANY(%(keys)s::text[])
"""

# Every writer locks rows in the order of their keys, so that there is no deadlock. Landmarks
# and boxes are sent as text, because unnest flattens nested arrays.
INSERT_IMAGES: Final = """
INSERT INTO feedback.images
    (sha256, size_bytes, media_type, alignment, landmarks, box, perceptual_hash, stored_sha256)
SELECT sha256, size_bytes, media_type, alignment, landmarks::float8[], box::float8[],
       ('x' || encode(perceptual_hash, 'hex'))::bit(256), stored_sha256
FROM unnest(
    %(hashes)s::bytea[], %(sizes)s::integer[], %(media_types)s::text[],
    %(alignments)s::text[], %(landmarks)s::text[], %(boxes)s::text[],
    %(perceptual_hashes)s::bytea[], %(stored_hashes)s::bytea[]
) AS sent (
    sha256, size_bytes, media_type, alignment, landmarks, box, perceptual_hash, stored_sha256
)
ORDER BY sha256
ON CONFLICT (sha256) DO NOTHING RETURNING sha256
"""

INSERT_PAIRS: Final = """
INSERT INTO feedback.pairs (image_a, image_b)
SELECT a, b FROM unnest(%(a)s::bytea[], %(b)s::bytea[]) AS sent (a, b) ORDER BY a, b
ON CONFLICT (image_a, image_b) DO NOTHING
"""

LOCK_PAIRS: Final = """
SELECT pair_id, image_a, image_b
FROM feedback.pairs JOIN unnest(%(a)s::bytea[], %(b)s::bytea[]) AS sent (a, b)
     ON image_a = a AND image_b = b
ORDER BY pair_id FOR NO KEY UPDATE OF pairs
"""

INSERT_LABELS: Final = """
WITH sent AS (
    SELECT * FROM unnest(
        %(pairs)s::bigint[], %(annotators)s::text[], %(labels)s::feedback.label[],
        %(keys)s::text[], %(versions)s::text[], %(similarities)s::float8[],
        %(thresholds)s::float8[], %(surenesses)s::float8[]
    ) WITH ORDINALITY
      AS sent (pair_id, annotator, label, key, version, similarity, threshold, sureness, n)
), met AS (
    INSERT INTO feedback.annotators (annotator)
    SELECT DISTINCT annotator FROM sent ORDER BY annotator ON CONFLICT DO NOTHING
)
INSERT INTO feedback.labels
    (pair_id, annotator, label, idempotency_key, model_version, similarity, threshold, sureness)
SELECT pair_id, annotator, label, key, version, similarity, threshold, sureness
FROM sent ORDER BY n
ON CONFLICT (idempotency_key) DO NOTHING RETURNING idempotency_key, label_id
"""

CURRENT_VOTES: Final = """
SELECT DISTINCT ON (pair_id, annotator) pair_id, annotator, label, labelled_at
FROM feedback.labels WHERE pair_id = ANY(%(pairs)s::bigint[])
ORDER BY pair_id, annotator, label_id DESC
"""

CONSENSUS_BEFORE: Final = """
SELECT pair_id, consensus FROM feedback.pair_consensus
WHERE pair_id = ANY(%(pairs)s::bigint[])
"""

STORE_CONSENSUS: Final = """
INSERT INTO feedback.pair_consensus
    (pair_id, consensus, confidence, votes_same, votes_different, votes_unsure, last_labelled)
SELECT * FROM unnest(
    %(pairs)s::bigint[], %(consensus)s::feedback.label[], %(confidence)s::float8[],
    %(same)s::integer[], %(different)s::integer[], %(unsure)s::integer[],
    %(last)s::timestamptz[]
)
ON CONFLICT (pair_id) DO UPDATE SET
    consensus = excluded.consensus, confidence = excluded.confidence,
    votes_same = excluded.votes_same, votes_different = excluded.votes_different,
    votes_unsure = excluded.votes_unsure, last_labelled = excluded.last_labelled
"""

COUNT: Final = """
UPDATE feedback.counters SET
    images = images + %(images)s, labels = labels + %(labels)s,
    pairs_same = pairs_same + %(same)s, pairs_different = pairs_different + %(different)s,
    pairs_undecided = pairs_undecided + %(undecided)s
WHERE slot = pg_backend_pid() %% 16
"""

STATS: Final = """
SELECT sum(images)::bigint, sum(labels)::bigint,
       (SELECT count(*) FROM feedback.annotators),
       sum(pairs_same)::bigint, sum(pairs_different)::bigint, sum(pairs_undecided)::bigint
FROM feedback.counters
"""

LIST_PAIRS: Final = """
SELECT pair_id, image_a, image_b, consensus, confidence,
       votes_same, votes_different, votes_unsure, last_labelled
FROM feedback.pair_consensus JOIN feedback.pairs USING (pair_id)
WHERE pair_id < %(before)s ORDER BY pair_id DESC LIMIT %(limit)s
"""

LIST_PAIRS_OF_CONSENSUS: Final = """
SELECT pair_id, image_a, image_b, consensus, confidence,
       votes_same, votes_different, votes_unsure, last_labelled
FROM feedback.pair_consensus JOIN feedback.pairs USING (pair_id)
WHERE consensus = %(consensus)s::feedback.label AND pair_id < %(before)s
ORDER BY pair_id DESC LIMIT %(limit)s
"""

LOCK_PAIRS_AFTER: Final = """
SELECT pair_id FROM feedback.pairs WHERE pair_id > %(after)s
ORDER BY pair_id LIMIT %(limit)s FOR NO KEY UPDATE
"""

# Waits for transactions that have drawn a label id and not committed, so that no id at or below
# the maximum appears later. Also admits one snapshot at a time.
LOCK_LABELS: Final = "LOCK TABLE feedback.labels IN SHARE ROW EXCLUSIVE MODE"

# A snapshot that equals one taken now, and from which nothing was erased.
SAME_SNAPSHOT: Final = """
SELECT snapshot_id, max_label_id, minimum_votes FROM feedback.snapshots
WHERE max_label_id = (SELECT coalesce(max(label_id), 0) FROM feedback.labels)
  AND minimum_votes = %(minimum_votes)s
  AND NOT EXISTS (
      SELECT FROM feedback.erasure_snapshots
      WHERE erasure_snapshots.snapshot_id = snapshots.snapshot_id
  )
ORDER BY taken_at DESC LIMIT 1
"""

TAKE_SNAPSHOT: Final = """
INSERT INTO feedback.snapshots (max_label_id, minimum_votes)
SELECT coalesce(max(label_id), 0), %(minimum_votes)s FROM feedback.labels
RETURNING snapshot_id, max_label_id, minimum_votes
"""

FIND_SNAPSHOT: Final = """
SELECT snapshot_id, max_label_id, minimum_votes FROM feedback.snapshots
WHERE snapshot_id = %(snapshot_id)s
"""

# Pairs without a label in the snapshot are returned with NULLs, so that the page moves on.
# LATERAL looks up the votes of each pair in the index; a plain join may read the whole table.
EXPORT_PAGE: Final = """
SELECT page.pair_id, image_a, image_b, annotator, label
FROM (
    SELECT pair_id, image_a, image_b FROM feedback.pairs
    WHERE pair_id > %(after)s ORDER BY pair_id LIMIT %(limit)s
) AS page LEFT JOIN LATERAL (
    SELECT DISTINCT ON (annotator) annotator, label FROM feedback.labels
    WHERE labels.pair_id = page.pair_id AND label_id <= %(max_label_id)s
    ORDER BY annotator, label_id DESC
) AS votes ON true
ORDER BY page.pair_id, annotator
"""

RULE: Final = "SELECT minimum_votes, derived_by FROM feedback.consensus_rule"

SET_RULE: Final = """
INSERT INTO feedback.consensus_rule (minimum_votes, derived_by)
VALUES (%(minimum_votes)s, 'majority')
ON CONFLICT (only_row) DO UPDATE
SET minimum_votes = excluded.minimum_votes, derived_by = excluded.derived_by
"""
