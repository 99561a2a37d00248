"""Inserts many rows directly, as the service would have stored them."""

import psycopg

from services.feedback.pool import queries as pool_queries

_FILL = (
    "INSERT INTO feedback.images (sha256, size_bytes, media_type, alignment, perceptual_hash)"
    " SELECT sha256(n::text::bytea), 30000, 'image/jpeg', 'aligned',"
    "        ('x' || encode(sha256(n::text::bytea), 'hex'))::bit(256)"
    " FROM generate_series(1, %(images)s) AS n",
    # Image n with each of the next few: distinct pairs, several with each image.
    "INSERT INTO feedback.pairs (image_a, image_b)"
    " SELECT least(a, b), greatest(a, b) FROM ("
    "   SELECT sha256(((n - 1) %% %(images)s + 1)::text::bytea) AS a,"
    "          sha256(((n - 1 + 1 + (n - 1) / %(images)s) %% %(images)s + 1)::text::bytea) AS b"
    "   FROM generate_series(1, %(pairs)s) AS n) AS made",
    "INSERT INTO feedback.labels (pair_id, annotator, label, idempotency_key)"
    " SELECT (n - 1) %% %(pairs)s + 1, 'ann-' || (n::bigint * 7919) %% 97,"
    "        (ARRAY['same', 'different', 'different'])[1 + n %% 3]::feedback.label, 'filled-' || n"
    " FROM generate_series(1, %(labels)s) AS n",
    "INSERT INTO feedback.annotators (annotator) SELECT DISTINCT annotator FROM feedback.labels",
    "INSERT INTO feedback.pair_consensus SELECT pair_id,"
    "   CASE WHEN same * 2 > votes THEN 'same'"
    "        WHEN different * 2 > votes THEN 'different' END::feedback.label,"
    "   CASE WHEN greatest(same, different) * 2 > votes"
    "        THEN greatest(same, different)::float8 / votes ELSE 0 END,"
    "   same, different, 0, at FROM ("
    "   SELECT pair_id, count(*) AS votes, count(*) FILTER (WHERE label = 'same') AS same,"
    "          count(*) FILTER (WHERE label = 'different') AS different, max(labelled_at) AS at"
    "   FROM (SELECT DISTINCT ON (pair_id, annotator) pair_id, label, labelled_at"
    "         FROM feedback.labels ORDER BY pair_id, annotator, label_id DESC) AS votes"
    "   GROUP BY pair_id) AS counted",
    "UPDATE feedback.counters SET images = %(images)s, labels = %(labels)s,"
    "   pairs_same = (SELECT count(*) FROM feedback.pair_consensus WHERE consensus = 'same'),"
    "   pairs_different ="
    "     (SELECT count(*) FROM feedback.pair_consensus WHERE consensus = 'different'),"
    "   pairs_undecided = (SELECT count(*) FROM feedback.pair_consensus WHERE consensus IS NULL)"
    " WHERE slot = 0",
)


def fill(database_url: str, *, images: int, pairs: int, labels: int) -> None:
    """Insert rows into an empty, migrated schema; pairs is at most images * (images - 1) / 2."""
    sizes = {"images": images, "pairs": pairs, "labels": labels}
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in _FILL:
            connection.execute(statement.encode(), sizes)
        connection.execute("VACUUM ANALYZE")


_POOL = (
    "INSERT INTO feedback.pool_versions (model_version, dimensions, threshold, complete_at)"
    " VALUES ('one', %(dimensions)s, 0.3, now())",
    "CREATE TABLE feedback.embeddings_1 PARTITION OF feedback.embeddings FOR VALUES IN (1)",
    # Random directions; the queries do not depend on unit length.
    "INSERT INTO feedback.embeddings (version_id, sha256, embedding, quality)"
    " SELECT 1, sha256, (SELECT array_agg(random() - 0.5)::vector"
    "                    FROM generate_series(1, %(dimensions)s) WHERE sha256 IS NOT NULL),"
    "        random() FROM feedback.images",
    "INSERT INTO feedback.unembeddable (sha256, model_version, why)"
    " SELECT sha256, 'one', 'no face' FROM feedback.images WHERE get_byte(sha256, 0) < 64",
    "INSERT INTO feedback.image_subjects (sha256, subject)"
    " SELECT sha256, 'person-' || (get_byte(sha256, 0) * 256 + get_byte(sha256, 1)) %% 1000"
    " FROM feedback.images",
    "INSERT INTO feedback.candidates (image_a, image_b, strategy, score, wanted, holders, truth)"
    " SELECT least(a, b), greatest(a, b), strategy::feedback.strategy, random(), 1, '{}',"
    "        CASE WHEN strategy = 'gold' THEN 'same'::feedback.label END"
    " FROM (SELECT sha256(n::text::bytea) AS a, sha256((n + 2000)::text::bytea) AS b,"
    "              (ARRAY['hard', 'uncertainty', 'disagreement', 'random', 'gold'])[1 + n %% 5]"
    "                AS strategy"
    "       FROM generate_series(1, %(candidates)s) AS n) AS made",
    "INSERT INTO feedback.leases (image_a, image_b, annotator, strategy, expires_at, answered)"
    " SELECT image_a, image_b, 'ann-' || pair_id %% 97, 'hard',"
    "        CASE WHEN pair_id %% 100 = 0 THEN now() + interval '1 hour' ELSE now() END,"
    "        CASE WHEN pair_id %% 100 = 0 THEN NULL ELSE true END"
    " FROM feedback.pairs WHERE pair_id <= %(leases)s",
    "INSERT INTO feedback.image_uploads (sha256, uploader)"
    " SELECT sha256, 'ann-' || get_byte(sha256, 0) FROM feedback.images",
)


def fill_pool(database_url: str, *, candidates: int, leases: int, dimensions: int) -> None:
    """Add embeddings of the images of `fill`, candidates and leases."""
    sizes = {"candidates": candidates, "leases": leases, "dimensions": dimensions}
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in _POOL:
            connection.execute(statement.encode(), sizes)
        connection.execute(pool_queries.add_index(1, dimensions))
        connection.execute("VACUUM ANALYZE")
