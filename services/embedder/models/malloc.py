"""Release of the memory of models."""

from services.embedder.models.resident import LoadedModel
from shared.heap import trim_heap


def release(models: list[LoadedModel | None]) -> None:
    """Drop the last references to models, and return their memory to the system. Blocks.

    This frees the sessions with their weights and buffers, and trims the heap. It takes long enough
    to delay other calls if it runs on the event loop.

    Args:
        models: The only references that are left; the list is emptied.
    """
    models.clear()
    trim_heap()
