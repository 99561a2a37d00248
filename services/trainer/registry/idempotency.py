"""Results of the trainer's mutating calls by their idempotency keys."""

from typing import Final

from shared.storage.idempotency import IdempotencyStore

CALL_RESULTS: Final = IdempotencyStore("trainer")
