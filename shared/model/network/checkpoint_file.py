"""Bounded reader of checkpoint files: nothing runs, and memory stays within the file's size."""

import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open

from shared.errors import InvalidInput

# The pickle of an iResNet-100 with its optimizer has about 300 KB, the zip directory about the
# same. Larger ones can only be made to fill the memory.
_MAX_STRUCTURE_BYTES = 4 * 2**20
_CHUNK_BYTES = 2**20
_ZIP_START = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP64_END = b"PK\x06\x06"
_ZIP_END_BYTES = 22
_ZIP64_LOCATOR_BYTES = 20
_ZIP_COMMENT_BYTES = 2**16
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Magic number, protocol, system, content and storage keys; the storages follow.
_LEGACY_PICKLES = 5

# What a checkpoint may name: containers, plain tensors and their types. torch allows more for
# weights, such as sparse tensors and bytearray(n), which allocate without data in the file.
_ALLOWED = re.compile(
    r"collections (OrderedDict|Counter)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.nn\.parameter Parameter"
    r"|torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch (Size|device|float(16|32|64)|bfloat16|u?int(8|16|32|64)|bool)"
    r"|_codecs encode|(builtins|__builtin__) set"
)
_KINDS = (
    (re.compile(r"sparse"), "sparse tensors"),
    (re.compile(r"_rebuild_qtensor|torch Q\w+Storage"), "quantized tensors"),
    (re.compile(r"_rebuild_meta_tensor"), "tensors of the meta device, which have no values"),
    (re.compile(r"torch Complex\w+Storage"), "complex tensors"),
)


@dataclass(frozen=True)
class CheckpointContent:
    """What a file holds.

    Attributes:
        value: The unpickled object, or the tensors of a safetensors file by key.
        metadata: Metadata of a safetensors file.
    """

    value: object
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint_file(path: Path, name: str) -> CheckpointContent:
    """Read a torch checkpoint (zip or legacy) or a safetensors file, detected by its content.

    Tensors of a zip or a safetensors file are mapped from the file and not read yet.

    Args:
        path: The file.
        name: What its owner calls it, for errors.

    Raises:
        MemoryError: If the declared storages of a legacy file do not fit into the memory.
        InvalidInput: If the file does not exist, is damaged, compressed or of another type, or
            would run code or allocate memory without data in the file.
    """
    if not path.is_file():
        raise InvalidInput("checkpoint", f"file {name} does not exist", detail=str(path))
    with path.open("rb") as file:
        start = file.read(9)
        if not start:
            raise InvalidInput("checkpoint", f"{name} is empty")
        if start[8:] == b"{":
            return _read_safetensors(path, name, int.from_bytes(start[:8], "little"))
        zipped = start.startswith(_ZIP_START)
        if zipped:
            _check_zip(file, name)
        else:
            _check_legacy(file, name)
    return CheckpointContent(_load(path, name, zipped=zipped))


def _refuse(name: str, why: str, error: Exception | None = None) -> InvalidInput:
    refusal = InvalidInput("checkpoint", f"{name} {why}")
    refusal.__cause__ = error
    return refusal


def _damaged(name: str, error: Exception | str) -> InvalidInput:
    reason = str(error).partition("\n")[0].partition(". ")[0]
    why = f"cannot be read; it is damaged, truncated or of another type ({reason})"
    return _refuse(name, why, error if isinstance(error, Exception) else None)


def _read_safetensors(path: Path, name: str, header_bytes: int) -> CheckpointContent:
    if header_bytes > min(_MAX_STRUCTURE_BYTES, path.stat().st_size - 8):
        raise _damaged(name, f"a safetensors header of {header_bytes} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return CheckpointContent(tensors, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
        raise _damaged(name, error) from error


def _load(path: Path, name: str, *, zipped: bool) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle can fail in any way
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise MemoryError(f"{name} needs more memory than there is") from error
        raise _damaged(name, error) from error


def _check_zip(file: IO[bytes], name: str) -> None:
    """Check the records' sizes and checksums, which torch does not, and scan the pickle."""
    try:
        if _directory_bytes(file) > _MAX_STRUCTURE_BYTES:
            raise _refuse(name, "is a zip archive with too many records for a checkpoint")
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            _check_records(records, file.seek(0, 2), name)
            pickles = [each for each in records if each.filename.split("/")[1:] == ["data.pkl"]]
            if len(pickles) != 1:
                raise _refuse(name, f"is a zip archive but no torch checkpoint: {_names(records)}")
            for record in records:
                _check_sum(archive, record, name)
            if pickles[0].file_size > _MAX_STRUCTURE_BYTES:
                raise _refuse(name, f"has a pickle of {pickles[0].file_size} bytes")
            with archive.open(pickles[0]) as content:
                _scan(content, name)
    except InvalidInput:
        raise
    except Exception as error:  # zipfile raises many kinds of errors for a damaged directory
        raise _damaged(name, error) from error


def _directory_bytes(file: IO[bytes]) -> int:
    """Return the size of the zip's directory, without reading the directory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _ZIP_END_BYTES - _ZIP_COMMENT_BYTES))
    tail = file.read()
    end = tail.rfind(_ZIP_END)
    if end < 0:
        raise zipfile.BadZipFile("the end of the zip archive is missing")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    zip64 = tail.rfind(_ZIP64_END, 0, max(0, end - _ZIP64_LOCATOR_BYTES))
    if zip64 >= 0:
        directory = max(directory, int.from_bytes(tail[zip64 + 40 : zip64 + 48], "little"))
    file.seek(0)
    return directory


def _names(records: list[zipfile.ZipInfo]) -> str:
    return ", ".join(record.filename for record in records[:8]) or "it has no records"


def _check_records(records: list[zipfile.ZipInfo], size: int, name: str) -> None:
    packed = [each.filename for each in records if each.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise _refuse(name, f"has compressed records ({packed[0]}); save it with torch.save")
    if len({each.filename for each in records}) < len(records):
        raise _refuse(name, "has two records of one name")
    total = sum(each.file_size for each in records)
    if total > size:
        raise _refuse(name, f"declares records of {total} bytes in a file of {size} bytes")


def _check_sum(archive: zipfile.ZipFile, record: zipfile.ZipInfo, name: str) -> None:
    try:
        with archive.open(record) as content:
            while content.read(_CHUNK_BYTES):
                pass
    except (zipfile.BadZipFile, EOFError) as error:
        why = (
            f"is damaged: the checksum of its record {record.filename} is wrong; "
            "copy it again, or save it with checksums"
        )
        raise _refuse(name, why, error) from error


def _check_legacy(file: IO[bytes], name: str) -> None:
    """Scan the pickles of the format before torch 1.6."""
    file.seek(0)
    if _scan(file, name) != _LEGACY_MAGIC:
        raise _foreign(name)
    for _ in range(_LEGACY_PICKLES - 1):
        _scan(file, name)


def _foreign(name: str, error: Exception | None = None) -> InvalidInput:
    why = (
        "is neither a torch checkpoint nor a safetensors file; "
        "other pickles can run code and are refused"
    )
    return _refuse(name, why, error)


def _scan(content: IO[bytes], name: str) -> object:
    """Refuse a pickle that names what no checkpoint needs; return its first value."""
    start, first = content.tell(), None
    try:
        for operation, argument, _ in pickletools.genops(content):
            if content.tell() - start > _MAX_STRUCTURE_BYTES:
                raise _refuse(name, f"has a pickle of more than {_MAX_STRUCTURE_BYTES} bytes")
            if operation.name in {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"}:
                raise _foreign(name)
            if operation.name == "GLOBAL":
                _check_global(str(argument), name)
            first = argument if first is None and operation.name == "LONG1" else first
    except InvalidInput:
        raise
    except Exception as error:  # genops raises many kinds of errors for what is no pickle
        raise _foreign(name, error) from error
    return first


def _check_global(named: str, name: str) -> None:
    if _ALLOWED.fullmatch(named):
        return
    for pattern, kind in _KINDS:
        if pattern.search(named):
            raise _refuse(name, f"has {kind}; save the plain state_dict of the network")
    raise _refuse(
        name,
        f"calls {named.replace(' ', '.')} when it is loaded, and files that run code are refused; "
        "save its state_dict alone",
    )


def walk_mappings(value: object, depth: int = 3) -> Iterator[tuple[str, dict[object, object]]]:
    """Yield the mappings in a value with their paths, outermost first.

    Args:
        value: Content of a file.
        depth: Levels of mappings to look at.
    """
    if not isinstance(value, dict) or depth == 0:
        return
    yield "", value
    for key, inner in value.items():
        for path, mapping in walk_mappings(inner, depth - 1):
            yield f"{key}.{path}".rstrip("."), mapping
