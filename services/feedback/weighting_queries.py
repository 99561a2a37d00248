"""The SQL of annotators' weights in one place, so that a test can EXPLAIN all of it."""

from typing import Final

NEWEST: Final = "SELECT max(weighting_id) FROM feedback.weightings"

WEIGHTING: Final = """
SELECT bar, odds_same, odds_different, odds_unsure FROM feedback.weightings
WHERE weighting_id = %(weighting_id)s
"""

OWN_WEIGHTS: Final = """
SELECT annotator, odds_same, odds_different, odds_unsure FROM feedback.annotator_weights
WHERE weighting_id = %(weighting_id)s AND odds_same IS NOT NULL
"""

ALL_WEIGHTS: Final = """
SELECT annotator, overlap, genuine_right, impostor_right, odds_same, odds_different, odds_unsure
FROM feedback.annotator_weights WHERE weighting_id = %(weighting_id)s ORDER BY annotator
"""

# What an estimate is made from now, and what the newest one was made from.
SITUATION: Final = """
SELECT (SELECT sum(labels)::bigint FROM feedback.counters),
       (SELECT coalesce(max(audit_id), 0) FROM feedback.audit),
       newest.labels, newest.audit_id
FROM (SELECT) AS now LEFT JOIN LATERAL (
    SELECT labels, audit_id FROM feedback.weightings ORDER BY weighting_id DESC LIMIT 1
) AS newest ON true
"""

# Pairs that tell something of their annotators: two of them decided, or it is known who is on
# both images. Others come too, with NULLs: they move the page on.
OVERLAP_PAGE: Final = """
SELECT page.pair_id, truth, annotator, label
FROM (
    SELECT pair_id, votes_same + votes_different AS decided FROM feedback.pair_consensus
    WHERE pair_id < %(before)s ORDER BY pair_id DESC LIMIT %(limit)s
) AS page LEFT JOIN LATERAL (
    SELECT one.subject = other.subject AS truth
    FROM feedback.pairs
         JOIN feedback.image_subjects AS one ON one.sha256 = image_a
         JOIN feedback.image_subjects AS other ON other.sha256 = image_b
    WHERE pairs.pair_id = page.pair_id
    OFFSET 0
) AS known ON true LEFT JOIN LATERAL (
    SELECT DISTINCT ON (annotator) annotator, label FROM feedback.labels
    WHERE labels.pair_id = page.pair_id AND (decided >= 2 OR truth IS NOT NULL)
    ORDER BY annotator, label_id DESC
) AS votes ON true
ORDER BY page.pair_id DESC, annotator
"""

# One at a time: a number is given to nothing that is stored before a smaller one.
LOCK_WEIGHTINGS: Final = "LOCK TABLE feedback.weightings IN SHARE ROW EXCLUSIVE MODE"

ADD_WEIGHTING: Final = """
INSERT INTO feedback.weightings
    (labels, audit_id, votes, pairs, bar, odds_same, odds_different, odds_unsure)
VALUES (%(labels)s, %(audit_id)s, %(votes)s, %(pairs)s, %(bar)s,
        %(odds_same)s, %(odds_different)s, %(odds_unsure)s)
RETURNING weighting_id
"""

ADD_WEIGHTS: Final = """
INSERT INTO feedback.annotator_weights
    (weighting_id, annotator, overlap, genuine_right, impostor_right,
     odds_same, odds_different, odds_unsure)
SELECT %(weighting_id)s, sent.* FROM unnest(
    %(annotator)s::text[], %(overlap)s::bigint[], %(genuine_right)s::float8[],
    %(impostor_right)s::float8[], %(odds_same)s::float8[], %(odds_different)s::float8[],
    %(odds_unsure)s::float8[]
) AS sent
"""

# Nobody judges by them any more. Whoever read a number just before it was superseded has an
# hour to name it in a snapshot.
FORGET_WEIGHTINGS: Final = """
DELETE FROM feedback.weightings AS old
WHERE weighting_id < (SELECT max(weighting_id) FROM feedback.weightings)
  AND estimated_at < now() - interval '1 hour'
  AND NOT EXISTS (SELECT FROM feedback.snapshots WHERE snapshots.weighting_id = old.weighting_id)
  AND NOT EXISTS (SELECT FROM feedback.consensus_rule AS rule
                  WHERE rule.weighting_id = old.weighting_id)
"""
