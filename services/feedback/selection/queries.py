"""SQL of the candidate queue and of pair leases; a test EXPLAINs each query."""

from typing import Final

# Removes candidates that enough annotators were asked about, once none of their leases runs.
TIDY: Final = """
DELETE FROM feedback.candidates WHERE candidate_id IN (
    SELECT candidate_id FROM feedback.candidates AS full_ones
    WHERE cardinality(holders) >= wanted AND NOT EXISTS (
        SELECT FROM feedback.leases
        WHERE leases.image_a = full_ones.image_a AND leases.image_b = full_ones.image_b
          AND answered IS NULL
    )
    ORDER BY candidate_id LIMIT 1000 FOR UPDATE SKIP LOCKED
)
"""

# What candidates depend on.
STATE: Final = """
SELECT sum(images)::bigint, sum(labels)::bigint,
       (SELECT max(complete_at) FROM feedback.pool_versions)
FROM feedback.counters
"""

# Removes candidates that no annotator holds.
DISCARD: Final = """
DELETE FROM feedback.candidates
WHERE strategy = ANY(%(strategies)s::feedback.strategy[])
  AND cardinality(holders) < wanted AND cardinality(holders) = 0
"""

OPEN: Final = """
SELECT strategy, count(*) FROM feedback.candidates
WHERE cardinality(holders) < wanted GROUP BY strategy
"""

OPEN_PAIRS: Final = """
SELECT image_a, image_b FROM feedback.candidates WHERE image_a = ANY(%(hashes)s::bytea[])
"""

LABELLED_AMONG: Final = """
SELECT image_a, image_b FROM feedback.pairs
WHERE image_a = ANY(%(hashes)s::bytea[]) AND image_b = ANY(%(hashes)s::bytea[])
"""

# Images at random points of the hash space, over which hashes are uniform.
RANDOM_IMAGES: Final = """
SELECT drawn.sha256 FROM unnest(%(points)s::bytea[]) AS point
CROSS JOIN LATERAL (
    SELECT sha256 FROM feedback.images
    WHERE sha256 >= point AND NOT EXISTS (
        SELECT FROM feedback.unembeddable WHERE unembeddable.sha256 = images.sha256 OFFSET 0
    ) ORDER BY sha256 LIMIT 1
) AS drawn
"""

LATEST_LABELLED: Final = """
SELECT image_a, image_b, consensus = 'same'
FROM (
    (SELECT pair_id, consensus FROM feedback.pair_consensus
     WHERE consensus = 'same' ORDER BY pair_id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT pair_id, consensus FROM feedback.pair_consensus
     WHERE consensus = 'different' ORDER BY pair_id DESC LIMIT %(limit)s)
) AS latest CROSS JOIN LATERAL (
    SELECT image_a, image_b FROM feedback.pairs WHERE pairs.pair_id = latest.pair_id OFFSET 0
) AS pair
"""

# Of the latest pairs without a consensus, those with votes for both sides.
DIVIDED: Final = """
SELECT image_a, image_b, votes_same, votes_different
FROM (
    SELECT pair_id, votes_same, votes_different FROM feedback.pair_consensus
    WHERE consensus IS NULL ORDER BY pair_id DESC LIMIT 5000
) AS latest CROSS JOIN LATERAL (
    SELECT image_a, image_b FROM feedback.pairs WHERE pairs.pair_id = latest.pair_id OFFSET 0
) AS pair
WHERE votes_same > 0 AND votes_different > 0
LIMIT %(limit)s
"""

# Whom images show. One of several subjects may be wrong, so such an image has none here.
SUBJECTS: Final = """
SELECT sha256, min(subject) FROM feedback.image_subjects WHERE sha256 = ANY(%(hashes)s::bytea[])
GROUP BY sha256 HAVING count(*) = 1
"""

# Pairs of images whose subjects are known: the same subject or two. An image with several subjects
# is in none of them, and two subjects of one image are not taken for two people.
GOLD_BY_SUBJECT: Final = """
SELECT drawn.sha256, mate.sha256, drawn.subject = mate.subject
FROM unnest(%(points)s::bytea[]) AS point
CROSS JOIN LATERAL (
    SELECT sha256, subject FROM feedback.image_subjects AS sole
    WHERE sha256 >= point AND NOT EXISTS (
        SELECT FROM feedback.image_subjects AS more
        WHERE more.sha256 = sole.sha256 AND more.subject <> sole.subject OFFSET 0
    ) ORDER BY sha256 LIMIT 1
) AS drawn
CROSS JOIN LATERAL (
    (SELECT sha256, subject FROM feedback.image_subjects AS sole
     WHERE subject = drawn.subject AND sha256 <> drawn.sha256 AND NOT EXISTS (
         SELECT FROM feedback.image_subjects AS more
         WHERE more.sha256 = sole.sha256 AND more.subject <> sole.subject OFFSET 0
     ) LIMIT 1)
    UNION ALL
    (SELECT sha256, subject FROM feedback.image_subjects AS sole
     WHERE sha256 > drawn.sha256 AND subject <> drawn.subject AND NOT EXISTS (
         SELECT FROM feedback.image_subjects AS more
         WHERE more.sha256 = sole.sha256 AND more.subject <> sole.subject OFFSET 0
     ) AND NOT EXISTS (
         SELECT FROM feedback.image_subjects AS one JOIN feedback.image_subjects AS other
              USING (sha256)
         WHERE one.subject = drawn.subject AND other.subject = sole.subject OFFSET 0
     ) ORDER BY sha256 LIMIT 1)
) AS mate
"""

GOLD_BY_VOTES: Final = """
SELECT image_a, image_b, consensus = 'same'
FROM (
    (SELECT pair_id, consensus, votes_same, votes_different, votes_unsure
     FROM feedback.pair_consensus
     WHERE consensus = 'same' ORDER BY pair_id DESC LIMIT 2000)
    UNION ALL
    (SELECT pair_id, consensus, votes_same, votes_different, votes_unsure
     FROM feedback.pair_consensus
     WHERE consensus = 'different' ORDER BY pair_id DESC LIMIT 2000)
) AS latest CROSS JOIN LATERAL (
    SELECT image_a, image_b FROM feedback.pairs WHERE pairs.pair_id = latest.pair_id OFFSET 0
) AS pair
WHERE votes_unsure + least(votes_same, votes_different) = 0
  AND votes_same + votes_different >= %(votes)s
LIMIT %(limit)s
"""

# Annotators who labelled a pair count as asked. A pair that enough annotators labelled is left
# out, unless more are wanted, and so is one with an image that is left out of the pool. The lock on
# the images waits for an erasure, after which the pairs of an erased image are left out.
ADD: Final = """
INSERT INTO feedback.candidates (image_a, image_b, strategy, score, wanted, holders, truth)
SELECT a, b, %(strategy)s::feedback.strategy, score,
       greatest(%(wanted)s, cardinality(voters) + %(more)s), voters, truth::feedback.label
FROM (
    SELECT a, b, score, truth, ARRAY(
        SELECT DISTINCT annotator FROM feedback.pairs JOIN feedback.labels USING (pair_id)
        WHERE pairs.image_a = a AND pairs.image_b = b
    ) AS voters
    FROM unnest(%(a)s::bytea[], %(b)s::bytea[], %(scores)s::float8[], %(truths)s::text[])
         AS sent (a, b, score, truth)
         JOIN feedback.images AS one ON one.sha256 = a
         JOIN feedback.images AS other ON other.sha256 = b
    WHERE NOT EXISTS (
        SELECT FROM feedback.unembeddable WHERE sha256 IN (one.sha256, other.sha256) OFFSET 0
    )
    FOR KEY SHARE OF one, other
) AS counted
WHERE a < b AND cardinality(voters) < greatest(%(wanted)s, cardinality(voters) + %(more)s)
ON CONFLICT (image_a, image_b) DO NOTHING
"""

# Whether a lease was answered is looked up once, after it expired. Until then the annotator
# counts as asked either way, so storing a label need not touch leases.
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
      -- One transaction settles at a time and others skip it: two could deadlock.
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

# Makes calls of one annotator wait for each other, so that a repeated one sees the leases of the
# first.
WAIT_FOR_ANNOTATOR: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('feedback leases of ' || %(annotator)s::text, 0))
"""

# The running leases of an annotator that they have not answered run anew, but for images that
# were left out of the pool since.
RENEW: Final = """
UPDATE feedback.leases SET expires_at = now() + %(lease_s)s * interval '1 second'
WHERE lease_id = ANY(ARRAY(
    SELECT lease_id FROM feedback.leases AS held
    WHERE annotator = %(annotator)s AND answered IS NULL AND expires_at > now()
      AND NOT EXISTS (
          SELECT FROM feedback.pairs JOIN feedback.labels USING (pair_id)
          WHERE pairs.image_a = held.image_a AND pairs.image_b = held.image_b
            AND labels.annotator = held.annotator
          OFFSET 0
      )
      AND NOT EXISTS (
          SELECT FROM feedback.unembeddable WHERE sha256 IN (held.image_a, held.image_b) OFFSET 0
      )
    ORDER BY lease_id LIMIT %(limit)s FOR UPDATE OF held
))
RETURNING lease_id, image_a, image_b, expires_at
"""

# How many pairs an annotator does not get because others hold them, and when the first lease of
# these ends.
HELD_BY_OTHERS: Final = """
SELECT count(DISTINCT candidate_id), min(expires_at)
FROM feedback.leases AS held JOIN feedback.candidates USING (image_a, image_b)
WHERE answered IS NULL AND expires_at > now() AND annotator <> %(annotator)s
  AND cardinality(holders) >= wanted AND NOT %(annotator)s::text = ANY(holders)
  AND NOT EXISTS (
      SELECT FROM feedback.pairs JOIN feedback.labels USING (pair_id)
      WHERE pairs.image_a = held.image_a AND pairs.image_b = held.image_b
        AND labels.annotator IN (held.annotator, %(annotator)s)
      OFFSET 0
  )
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
              -- A lookup for each candidate; a join might read every label of an annotator.
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

# In the order of the ids; without leases of erased images.
LEASES_AGAIN: Final = """
SELECT lease_id, image_a, image_b, expires_at
FROM unnest(%(lease_ids)s::bigint[]) WITH ORDINALITY AS kept (lease_id, place)
     JOIN feedback.leases USING (lease_id)
ORDER BY place
"""

# The last answer of each annotator on each gold pair since the pair is in the queue.
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

POOL_SIZE: Final = """
SELECT (SELECT count(*) FROM (SELECT FROM feedback.images LIMIT 2) AS two),
       EXISTS (SELECT FROM feedback.pool_versions WHERE complete_at IS NOT NULL)
"""

# Images that were sent by the caller, or are leased: to an annotator, or to anybody if NULL.
OPEN_IMAGES: Final = """
SELECT sha256 FROM unnest(%(hashes)s::bytea[]) AS wanted (sha256)
WHERE EXISTS (
    SELECT FROM feedback.image_uploads AS sent
    WHERE sent.sha256 = wanted.sha256 AND uploader = %(uploader)s
) OR EXISTS (
    SELECT FROM feedback.leases WHERE image_a = wanted.sha256 AND expires_at > now()
      AND (%(annotator)s::text IS NULL OR annotator = %(annotator)s)
) OR EXISTS (
    SELECT FROM feedback.leases WHERE image_b = wanted.sha256 AND expires_at > now()
      AND (%(annotator)s::text IS NULL OR annotator = %(annotator)s)
)
"""

# The lock keeps the images from being erased meanwhile.
NOTE_UPLOADS: Final = """
INSERT INTO feedback.image_uploads (sha256, uploader)
SELECT sha256, %(uploader)s FROM (
    SELECT sha256 FROM feedback.images WHERE sha256 = ANY(%(hashes)s::bytea[])
    ORDER BY sha256 FOR KEY SHARE
) AS stored
ON CONFLICT DO NOTHING
"""
