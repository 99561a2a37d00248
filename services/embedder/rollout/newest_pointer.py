"""Refusal of serving pointers that are older than one that was read before."""

import logging
from collections.abc import Callable
from pathlib import Path

from shared.errors import CorruptData
from shared.files import write_atomically
from shared.registry.serving_pointer import ServingPointer

logger = logging.getLogger(__name__)


class NewestPointer:
    """Reads the serving pointer, and refuses a copy of an earlier one.

    A signature does not tell when an object was written: whoever can write to the bucket could put
    an earlier pointer, which the trainer has signed, in the place of the present one.

    Args:
        read: Reads the pointer; None before the first promotion. Blocks.
        path: Small file with the newest generation that was read.
    """

    def __init__(self, read: Callable[[], ServingPointer | None], path: Path) -> None:
        self._read = read
        self._path = path
        self._newest: int | None = None

    def read(self) -> ServingPointer | None:
        """Read the pointer.

        Raises:
            CorruptData: If it is older than one that was read before.
        """
        pointer = self._read()
        if pointer is None:
            return None
        newest = self._kept() if self._newest is None else self._newest
        if pointer.generation < newest:
            raise CorruptData(
                f"the serving pointer is of generation {pointer.generation}, and {newest} was read"
                f" before; if the trainer's database was restored, remove {self._path}"
            )
        if pointer.generation > newest:
            self._keep(pointer.generation)
        self._newest = pointer.generation
        return pointer

    def _kept(self) -> int:
        try:
            return int(self._path.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            logger.warning(
                "%s cannot be read, so an older pointer is accepted: %s", self._path, error
            )
            return 0

    def _keep(self, generation: int) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, str(generation))
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._path, error)
