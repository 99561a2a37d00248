"""The SQL of leases and candidates in one place, so that a test can EXPLAIN all of it."""

from typing import Final

# Whether a lease was answered is asked once, when it has run out: until then the annotator
# counts as asked either way, and storing a label costs nothing more.
SETTLE: Final = """
WITH expired AS MATERIALIZED (
    SELECT lease_id, image_a, image_b, annotator, EXISTS (
        SELECT FROM feedback.pairs JOIN feedback.labels USING (pair_id)
        WHERE pairs.image_a = leases.image_a AND pairs.image_b = leases.image_b
          AND labels.annotator = leases.annotator
        OFFSET 0
    ) AS labelled
    FROM feedback.leases
    WHERE answered IS NULL AND expires_at <= now()
      -- One settles at a time, the others pass by: two might wait for one another.
      AND (SELECT pg_try_advisory_xact_lock(hashtextextended('feedback leases', 0)))
    ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), settled AS (
    UPDATE feedback.leases
    SET answered = lease_id = ANY(ARRAY(SELECT lease_id FROM expired WHERE labelled))
    WHERE lease_id = ANY(ARRAY(SELECT lease_id FROM expired))
), gone AS (
    SELECT image_a, image_b, array_agg(annotator) AS annotators
    FROM expired WHERE NOT labelled GROUP BY image_a, image_b
)
UPDATE feedback.candidates
SET holders = ARRAY(SELECT unnest(holders) EXCEPT SELECT unnest(gone.annotators))
FROM gone WHERE candidates.image_a = gone.image_a AND candidates.image_b = gone.image_b
"""

LEASE: Final = """
WITH chosen AS MATERIALIZED (
    SELECT candidate_id, image_a, image_b, strategy
    FROM unnest(%(strategies)s::feedback.strategy[], %(counts)s::integer[]) AS part (kind, wish)
    CROSS JOIN LATERAL (
        SELECT candidate_id, image_a, image_b, strategy FROM feedback.candidates
        WHERE strategy = kind AND cardinality(holders) < wanted
          AND NOT %(annotator)s::text = ANY(holders)
          AND NOT EXISTS (
              SELECT FROM feedback.pairs JOIN feedback.labels USING (pair_id)
              WHERE pairs.image_a = candidates.image_a AND pairs.image_b = candidates.image_b
                AND labels.annotator = %(annotator)s
              -- Looked up for each candidate: a join might read every label of an annotator.
              OFFSET 0
          )
        ORDER BY score DESC, candidate_id LIMIT wish FOR UPDATE OF candidates SKIP LOCKED
    ) AS found
), held AS (
    UPDATE feedback.candidates SET holders = holders || %(annotator)s::text
    FROM chosen WHERE candidates.candidate_id = chosen.candidate_id
)
INSERT INTO feedback.leases (image_a, image_b, annotator, strategy, expires_at)
SELECT image_a, image_b, %(annotator)s, strategy, now() + %(lease_s)s * interval '1 second'
FROM chosen RETURNING lease_id, image_a, image_b, expires_at
"""

# In the order of the ids; leases of erased images are gone.
LEASES_AGAIN: Final = """
SELECT lease_id, image_a, image_b, expires_at
FROM unnest(%(lease_ids)s::bigint[]) WITH ORDINALITY AS kept (lease_id, place)
     JOIN feedback.leases USING (lease_id)
ORDER BY place
"""

# The last answer of each annotator on each gold pair, if it came after the pair's truth was
# known.
ANNOTATORS: Final = """
SELECT annotator, count(*), count(*) FILTER (WHERE label = truth)
FROM (
    SELECT DISTINCT ON (candidate_id, annotator) annotator, label, truth
    FROM feedback.candidates CROSS JOIN LATERAL (
        SELECT annotator, label, label_id
        FROM feedback.pairs JOIN feedback.labels USING (pair_id)
        WHERE pairs.image_a = candidates.image_a AND pairs.image_b = candidates.image_b
          AND labelled_at >= prepared_at
        OFFSET 0
    ) AS answer
    WHERE strategy = 'gold' AND cardinality(holders) < wanted
    ORDER BY candidate_id, annotator, label_id DESC
) AS answers
GROUP BY annotator ORDER BY annotator LIMIT %(limit)s
"""

SITUATION: Final = """
SELECT (SELECT count(*) FROM (SELECT FROM feedback.images LIMIT 2) AS two),
       EXISTS (SELECT FROM feedback.pool_versions WHERE complete_at IS NOT NULL)
"""
