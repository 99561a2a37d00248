"""Results of the trainer's mutating calls by their idempotency keys."""

from typing import Final

from shared.storage.idempotency import KeptResults

CALL_RESULTS: Final = KeptResults("trainer")
