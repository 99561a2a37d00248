"""The work of a decode process: a pure function from a picture's bytes to its outcome."""

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import cv2

from shared.decoding.messages import DecodeRequest, DecodeResult
from shared.errors import InvalidInput, MagFaceError, without_frames
from shared.model.face_check import FaceCheck
from shared.model.image.face_reader import FaceReader

_log = logging.getLogger(__name__)
_STATM: Final = Path("/proc/self/statm")
_OUT_OF_MEMORY: Final = -4


@cache
def face_check() -> FaceCheck:
    """Return the check whether crops show faces."""
    return FaceCheck()


def perform(reader: FaceReader, request: DecodeRequest) -> DecodeResult | MagFaceError:
    """Do what a request asks for within its memory; whatever the picture raises is its own error.

    Args:
        reader: Decodes and aligns.
        request: The picture, and what to do with it.
    """
    try:
        with _memory_limit(request.memory_bytes):
            return _perform(reader, request)
    except MagFaceError as error:
        return without_frames(error)
    except MemoryError:
        return _needs_memory(request)
    except cv2.error as error:
        if error.code == _OUT_OF_MEMORY:
            return _needs_memory(request)
        return _unexpected(request, error)
    except Exception as error:
        return _unexpected(request, error)


def resident_bytes() -> int:
    """Return the memory that this process has."""
    return _statm(1)


def _perform(reader: FaceReader, request: DecodeRequest) -> DecodeResult:
    match request.operation:
        case "read":
            return reader.read(request.face, request.field)
        case "detect":
            return reader.detect(request.face.data, request.field)
        case "check":
            return reader.check(request.face, request.field)
        case "check_face":
            return reader.check(request.face, request.field, require=face_check().require_face)


def _needs_memory(request: DecodeRequest) -> InvalidInput:
    return InvalidInput(
        f"{request.field}.data",
        f"needs more than {request.memory_bytes // 10**6} MB of memory to decode, which is more "
        "than a picture of its width and height should",
    )


def _unexpected(request: DecodeRequest, error: Exception) -> InvalidInput:
    _log.error("a picture of %d bytes failed", len(request.face.data), exc_info=error)
    return InvalidInput(
        f"{request.field}.data",
        "could not be decoded; save it again as JPEG or PNG",
        detail=f"{type(error).__name__}: {error}",
    )


@contextmanager
def _memory_limit(size: int) -> Iterator[None]:
    """Limit the address space to what the process has now and so many bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_statm(0) + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _statm(column: int) -> int:
    return int(_STATM.read_text().split()[column]) * resource.getpagesize()
