"""SQL of the upload fence, the check of objects, subjects and tombstones; a test EXPLAINs each."""

from typing import Final

# Key of the advisory lock: shared by transactions that add rows of images, exclusive for
# transactions that list removals or delete rows.
REMOVAL_LOCK: Final = 7_305_800_211

SHARE_REMOVAL_LOCK: Final = f"SELECT pg_advisory_xact_lock_shared({REMOVAL_LOCK})"

REMOVAL_EPOCH: Final = "SELECT epoch FROM feedback.removal_epoch"

IMAGE_SIZES: Final = """
SELECT sha256, size_bytes FROM feedback.images WHERE sha256 BETWEEN %(first)s AND %(last)s
"""

OBJECT_HASH: Final = """
SELECT coalesce(stored_sha256, sha256) FROM feedback.images WHERE sha256 = %(sha256)s
"""

NEXT_IMAGE: Final = """
SELECT sha256 FROM feedback.images WHERE sha256 > %(after)s ORDER BY sha256 LIMIT 1
"""

# The epoch and one of the images that is listed for removal, both from one snapshot.
UPLOAD_EPOCH: Final = """
SELECT epoch,
       (SELECT sha256 FROM feedback.removals WHERE sha256 = ANY(%(hashes)s::bytea[]) LIMIT 1)
FROM feedback.removal_epoch
"""

# The lock on the images makes this wait for an erasure, after which their rows are missing. Rows
# are inserted in the order of their keys, so that there is no deadlock.
INSERT_SUBJECTS: Final = """
INSERT INTO feedback.image_subjects (sha256, subject)
SELECT sha256, subject FROM (
    SELECT sha256 FROM feedback.images WHERE sha256 = ANY(%(hashes)s::bytea[])
    ORDER BY sha256 FOR KEY SHARE
) AS stored JOIN unnest(%(hashes)s::bytea[], %(subjects)s::text[]) AS sent (sha256, subject)
     USING (sha256)
ORDER BY sha256, subject
ON CONFLICT (sha256, subject) DO NOTHING
"""

SUBJECTS_OF: Final = """
SELECT sha256, subject FROM feedback.image_subjects WHERE sha256 = ANY(%(hashes)s::bytea[])
ORDER BY sha256, subject
"""

# A lookup for each mark; a join might read the whole table.
TOMBSTONES: Final = """
SELECT sent.mark, found.erased_at
FROM unnest(%(marks)s::bytea[]) AS sent (mark) CROSS JOIN feedback.erasure_key
CROSS JOIN LATERAL (
    SELECT erased_at FROM feedback.tombstones WHERE digest = sha256(key || sent.mark) OFFSET 0
) AS found
"""
