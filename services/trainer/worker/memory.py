"""Memory limits of the worker processes."""

import os
import re
import resource

from pydantic import BaseModel, ConfigDict

from services.trainer.settings import TrainerSettings
from services.trainer.worker.specs import JobKind
from shared.errors import MagFaceError

# Measured: an import of an iResNet-100 takes 3.0 GB, of a network at the size limit twice as much.
_IMPORT_BYTES = 6 * 2**30
# Libraries start threads for each core, and their stacks and heaps count.
_BYTES_PER_CORE = 64 * 2**20

_OUT_OF_MEMORY = re.compile(
    r"bad_?alloc|(can't|cannot|failed to) allocate|failed to map segment|can't start new thread"
    r"|thread creation failed|out of memory|MemoryError",
    re.IGNORECASE,
)


class MemoryLimit(BaseModel):
    """Most private memory that a process may have, as the kernel counts it (RLIMIT_DATA).

    Attributes:
        max_bytes: The limit.
        setting: The trainer's setting that it comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int
    setting: str

    def apply(self) -> None:
        """Limit this process and those that it starts."""
        resource.setrlimit(resource.RLIMIT_DATA, (self.max_bytes, self.max_bytes))

    def __str__(self) -> str:
        return (
            f"the job needs more memory than the {self.max_bytes} bytes that a worker may use, "
            f"the trainer's {self.setting}"
        )


def memory_limit(settings: TrainerSettings, kind: JobKind) -> MemoryLimit | None:
    """Return the limit for the worker of a job; None if there is none.

    An import reads what somebody uploaded, so it always has a limit: by default what the largest
    network needs beside a mapped file of the largest size.
    """
    if kind is JobKind.IMPORT:
        default = (
            _IMPORT_BYTES + settings.upload_max_bytes + _BYTES_PER_CORE * (os.cpu_count() or 1)
        )
        max_bytes = settings.import_memory_bytes or default
        return MemoryLimit(max_bytes=max_bytes, setting="MAGFACE_IMPORT_MEMORY_BYTES")
    if settings.worker_memory_bytes is None:
        return None
    return MemoryLimit(
        max_bytes=settings.worker_memory_bytes, setting="MAGFACE_WORKER_MEMORY_BYTES"
    )


def speaks_of_memory(text: str) -> bool:
    """Whether the text of an error, or a library's last output, says that memory ran out."""
    return bool(_OUT_OF_MEMORY.search(text))


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error or one that caused it says that memory ran out."""
    cause: BaseException | None = error
    while cause is not None:
        # A domain error quotes its input, which may say anything.
        quotes = isinstance(cause, MagFaceError)
        if isinstance(cause, MemoryError) or (not quotes and speaks_of_memory(str(cause))):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
