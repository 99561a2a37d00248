"""SQL of the pool and its embeddings; a test EXPLAINs each query.

A query on the partition of an index version is a function of the version's id.
"""

from typing import Final

from psycopg import sql

TRY_LEADER_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended('feedback pool', 0))"

VERSION: Final = """
SELECT version_id, model_version, dimensions, threshold, slope, intercept,
       complete_at IS NOT NULL
FROM feedback.pool_versions WHERE model_version = %(model_version)s
"""

COMPLETE_VERSIONS: Final = """
SELECT version_id, model_version, dimensions, threshold, slope, intercept,
       complete_at IS NOT NULL
FROM feedback.pool_versions WHERE complete_at IS NOT NULL ORDER BY complete_at DESC
"""

ADD_VERSION: Final = """
INSERT INTO feedback.pool_versions (model_version, dimensions, threshold, slope, intercept)
VALUES (%(model_version)s, %(dimensions)s, %(threshold)s, %(slope)s, %(intercept)s)
ON CONFLICT (model_version) DO NOTHING
"""

COMPLETE: Final = """
UPDATE feedback.pool_versions SET complete_at = now() WHERE version_id = %(version_id)s
"""

OTHER_VERSIONS: Final = """
SELECT version_id FROM feedback.pool_versions WHERE version_id <> %(version_id)s
"""

FORGET_VERSION: Final = """
DELETE FROM feedback.pool_versions WHERE version_id = %(version_id)s
"""

# The next images in the order of stored_at, and whether each is still to be embedded.
WALK: Final = """
SELECT sha256, stored_at, NOT EXISTS (
    SELECT FROM feedback.embeddings
    WHERE embeddings.version_id = %(version_id)s AND embeddings.sha256 = page.sha256
    OFFSET 0  -- an index lookup for each image, not a hash of the whole table
) AND NOT EXISTS (
    SELECT FROM feedback.unembeddable
    WHERE unembeddable.sha256 = page.sha256 AND model_version = %(model_version)s
    OFFSET 0
) AS missing
FROM (
    SELECT sha256, stored_at FROM feedback.images
    WHERE (stored_at, sha256) > (%(after)s::timestamptz, %(after_hash)s::bytea)
    ORDER BY stored_at, sha256 LIMIT %(limit)s
) AS page ORDER BY stored_at, sha256
"""

NOW: Final = "SELECT now()"

# For each hash of a picture the stored image that differs in the fewest bits, if these are few.
NEAR_DUPLICATES: Final = """
SELECT sent.sha256, near.sha256
FROM (
    SELECT sha256, ('x' || encode(perceptual_hash, 'hex'))::bit(256) AS perceptual_hash
    FROM unnest(%(hashes)s::bytea[], %(perceptual_hashes)s::bytea[])
         AS given (sha256, perceptual_hash)
) AS sent CROSS JOIN LATERAL (
    SELECT images.sha256 FROM feedback.images
    WHERE feedback.hash_bands(images.perceptual_hash) && feedback.hash_bands(sent.perceptual_hash)
      AND bit_count(images.perceptual_hash # sent.perceptual_hash) <= %(bits)s
      AND images.sha256 <> sent.sha256
    ORDER BY bit_count(images.perceptual_hash # sent.perceptual_hash), images.sha256 LIMIT 1
) AS near
"""

# An erased image gets no row: the lock on the images waits for the erasure.
STORE: Final = """
INSERT INTO feedback.embeddings (version_id, sha256, embedding, quality)
SELECT %(version_id)s, sha256, embedding::vector, quality
FROM (
    SELECT sha256 FROM feedback.images WHERE sha256 = ANY(%(hashes)s::bytea[])
    ORDER BY sha256 FOR KEY SHARE
) AS stored JOIN unnest(%(hashes)s::bytea[], %(embeddings)s::text[], %(qualities)s::real[])
     AS sent (sha256, embedding, quality) USING (sha256)
ON CONFLICT DO NOTHING
"""

EMBEDDABLE: Final = "DELETE FROM feedback.unembeddable WHERE sha256 = ANY(%(hashes)s::bytea[])"

MARK_UNEMBEDDABLE: Final = """
INSERT INTO feedback.unembeddable (sha256, model_version, why)
SELECT sha256, %(model_version)s, %(why)s FROM feedback.images
WHERE sha256 = %(sha256)s FOR KEY SHARE
ON CONFLICT (sha256) DO UPDATE
SET model_version = excluded.model_version, why = excluded.why
"""

# Nobody is asked about a pair with an image that is left out of the pool.
DISCARD_CANDIDATES: Final = """
DELETE FROM feedback.candidates WHERE image_a = %(sha256)s OR image_b = %(sha256)s
"""


def partition(version_id: int) -> sql.Identifier:
    return sql.Identifier("feedback", f"embeddings_{version_id}")


def add_partition(version_id: int) -> sql.Composed:
    return sql.SQL(
        "CREATE TABLE IF NOT EXISTS {} PARTITION OF feedback.embeddings FOR VALUES IN ({})"
    ).format(partition(version_id), sql.Literal(version_id))


def drop_partition(version_id: int) -> sql.Composed:
    return sql.SQL("DROP TABLE IF EXISTS {}").format(partition(version_id))


def drop_index(version_id: int) -> sql.Composed:
    return sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(
        sql.Identifier("feedback", f"embeddings_{version_id}_hnsw")
    )


def add_index(version_id: int, dimensions: int) -> sql.Composed:
    """Build an HNSW index over all embeddings of a version.

    HNSW, not IVFFlat: it needs no training sample, and images that are added later join the same
    graph, whereas the lists of IVFFlat fit worse as the pool grows.
    """
    return sql.SQL(
        "CREATE INDEX CONCURRENTLY {} ON {} USING hnsw ((embedding::vector({})) vector_ip_ops)"
    ).format(
        sql.Identifier(f"embeddings_{version_id}_hnsw"),
        partition(version_id),
        sql.Literal(dimensions),
    )


def neighbours(version_id: int, dimensions: int) -> sql.Composed:
    """Nearest neighbours of each anchor, without itself: anchor, neighbour, similarity."""
    return sql.SQL(
        "SELECT anchor.sha256, near.sha256, near.similarity FROM {table} AS anchor"
        " CROSS JOIN LATERAL ("
        "   SELECT other.sha256, -(other.embedding::vector({size})"
        "     <#> anchor.embedding::vector({size})) AS similarity"
        "   FROM {table} AS other"
        "   ORDER BY other.embedding::vector({size}) <#> anchor.embedding::vector({size})"
        "   LIMIT %(count)s + 1) AS near"
        " WHERE anchor.sha256 = ANY(%(anchors)s::bytea[]) AND near.sha256 <> anchor.sha256"
    ).format(table=partition(version_id), size=sql.Literal(dimensions))


def similarities(version_id: int) -> sql.Composed:
    """Similarity of pairs whose images are both embedded: a, b, similarity."""
    return sql.SQL(
        "SELECT a, b, -(one.embedding <#> other.embedding)"
        " FROM unnest(%(a)s::bytea[], %(b)s::bytea[]) AS pair (a, b)"
        " JOIN {table} AS one ON one.sha256 = a JOIN {table} AS other ON other.sha256 = b"
    ).format(table=partition(version_id))


def qualities(version_id: int) -> sql.Composed:
    return sql.SQL("SELECT sha256, quality FROM {} WHERE sha256 = ANY(%(hashes)s::bytea[])").format(
        partition(version_id)
    )


def random_embedded(version_id: int) -> sql.Composed:
    """Embedded images at random points of the hash space, over which hashes are uniform."""
    return sql.SQL(
        "SELECT DISTINCT drawn.sha256 FROM unnest(%(points)s::bytea[]) AS point"
        " CROSS JOIN LATERAL (SELECT sha256 FROM {} WHERE sha256 >= point"
        "   ORDER BY sha256 LIMIT 1) AS drawn"
    ).format(partition(version_id))
