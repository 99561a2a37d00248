"""InsightFace's ``.bin`` pair sets: a pickle of two lists, encoded images and booleans.

A pickle can run any code while it is loaded. These sets need few pickle opcodes, so a file with any
other opcode is refused before it is unpickled. In addition, the unpickler resolves no class.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, Final, NoReturn

from shared.datasets.pairs import PairSet, PairSetBuilder
from shared.datasets.user_files import read_regular
from shared.errors import InvalidInput

FOLDS: Final = 10

_FRAMING: Final = ("PROTO", "FRAME", "STOP", "MARK")
_LISTS: Final = ("EMPTY_LIST", "APPEND", "APPENDS", "TUPLE", "TUPLE2")
# Python 2 wrote bytes as strings.
_BYTES: Final = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING")
_BOOLEANS: Final = ("NEWTRUE", "NEWFALSE")
_MEMO_WRITES: Final = ("BINPUT", "LONG_BINPUT")
_MEMO: Final = (*_MEMO_WRITES, "MEMOIZE", "BINGET", "LONG_BINGET")
_ALLOWED: Final = frozenset((*_FRAMING, *_LISTS, *_BYTES, *_BOOLEANS, *_MEMO))


def read_bin(path: Path) -> PairSet:
    """Read a ``.bin`` file: images 2k and 2k+1 are pair k, and the folds are ten equal ranges.

    Sets of fewer than ten pairs have no folds. The images of all released sets are aligned
    112x112 crops.

    Raises:
        InvalidInput: If the file is not such a pickle; no code in it is run. If a pair has the
            same image twice or the images of an earlier pair.
    """
    images, labels = _check_content(_unpickle(read_regular(path), str(path)), str(path))
    builder = PairSetBuilder(str(path))
    for number, genuine in enumerate(labels):
        first, second = (builder.image(images[2 * number + side]) for side in (0, 1))
        fold = number * FOLDS // len(labels) if len(labels) >= FOLDS else None
        builder.pair(f"pair {number}", first, second, genuine, fold)
    return builder.build()


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"asks for {module}.{name}")


def _unpickle(data: bytes, field: str) -> Any:
    _check_instructions(data, field)
    try:
        return _RestrictedUnpickler(io.BytesIO(data), encoding="bytes").load()
    # A damaged pickle can raise almost any exception.
    except Exception as error:
        raise InvalidInput(field, f"is not a readable pickle: {error}") from error


def _check_instructions(data: bytes, field: str) -> None:
    try:
        for count, (code, argument, position) in enumerate(pickletools.genops(data)):
            if code.name not in _ALLOWED:
                found = f"{code.name} {str(argument or '')[:80]}".strip()
                raise InvalidInput(
                    field,
                    f"is refused: at byte {position} its pickle has {found}, "
                    "and a .bin set consists of lists, bytes and booleans only",
                )
            # The memo is an array, so one large index would exhaust the memory.
            if code.name in _MEMO_WRITES and int(argument or 0) > count:
                raise InvalidInput(field, f"has a damaged pickle memo at byte {position}")
    except ValueError as error:
        raise InvalidInput(field, f"is not a complete pickle: {error}") from error


def _check_content(content: Any, field: str) -> tuple[list[bytes], list[bool]]:
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise InvalidInput(field, "does not hold two lists, one of images and one of booleans")
    images, labels = content
    if not isinstance(images, list) or not all(isinstance(image, bytes) for image in images):
        raise InvalidInput(field, "its first part is not a list of encoded images")
    if not isinstance(labels, list) or not all(isinstance(label, bool) for label in labels):
        raise InvalidInput(field, "its second part is not a list of booleans")
    if len(images) != 2 * len(labels):
        raise InvalidInput(
            field, f"has {len(images)} images for {len(labels)} pairs, not two for each"
        )
    return images, labels
