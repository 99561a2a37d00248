"""Results of the trainer's calls by their idempotency keys."""

from typing import Final

from shared.storage.idempotency import IdempotencyStore

KEPT_RESULTS: Final = IdempotencyStore("trainer")
