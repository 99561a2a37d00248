"""SQL of the upload fence."""

from typing import Final

# Appenders share it, and whoever lists removals or deletes rows has it alone.
REMOVAL_LOCK: Final = 7_305_800_211

SHARE_GATE: Final = f"SELECT pg_advisory_xact_lock_shared({REMOVAL_LOCK})"

EPOCH: Final = "SELECT epoch FROM feedback.removal_epoch"
# Both as of one moment: an image that is not listed was not, under this epoch.
UPLOAD_EPOCH: Final = """
SELECT epoch,
       (SELECT sha256 FROM feedback.removals WHERE sha256 = ANY(%(hashes)s::bytea[]) LIMIT 1)
FROM feedback.removal_epoch
"""
