"""SQL of the upload fence and the check of objects; a test EXPLAINs each query."""

from typing import Final

# Key of the advisory lock: shared by transactions that add rows of images, exclusive for
# transactions that list removals or delete rows.
REMOVAL_LOCK: Final = 7_305_800_211

SHARE_REMOVAL_LOCK: Final = f"SELECT pg_advisory_xact_lock_shared({REMOVAL_LOCK})"

REMOVAL_EPOCH: Final = "SELECT epoch FROM feedback.removal_epoch"

IMAGE_SIZES: Final = """
SELECT sha256, size_bytes FROM feedback.images WHERE sha256 BETWEEN %(first)s AND %(last)s
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
