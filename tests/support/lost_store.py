"""An object store that cannot be reached."""

from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore


def lost_store(timeout_s: float = 5.0) -> ObjectStore:
    """Make the client of a store at a port where nothing listens."""
    return ObjectStore(
        ObjectStoreSettings(
            s3_endpoint="127.0.0.1:9",
            s3_access_key="nobody",
            s3_secret_key="nothing",
            s3_timeout_s=timeout_s,
        )
    )
