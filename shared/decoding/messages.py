"""Messages between a service and its decode processes, over a stream socket.

A message is a header in JSON and a payload of bytes. Nothing is unpickled, because a process that a
damaged picture took over could send anything.
"""

import json
import socket
import struct
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from pydantic import TypeAdapter

from shared.errors import InvalidInput, MagFaceError, PreconditionFailed
from shared.model.image.align import CROP_SIZE
from shared.model.image.face import DetectedFace, Detection, FaceCrop, FaceImage
from shared.model.image.perceptual_hash import HASH_BYTES

# Lengths of the header and of the payload.
_LENGTHS: Final = struct.Struct("<II")
_MAX_HEADER_BYTES: Final = 2**20
_FACE_IMAGE: Final = TypeAdapter(FaceImage)
_DETECTED_FACE: Final[TypeAdapter[DetectedFace | None]] = TypeAdapter(DetectedFace | None)
_DETECTION: Final = TypeAdapter(Detection)

# Read a crop, find all faces, check that a crop can be read, or that it also shows a face.
Operation = Literal["read", "detect", "check", "check_face"]
# A check gives the perceptual hash.
DecodeResult: TypeAlias = FaceCrop | Detection | bytes


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What a decode process is to do with one picture.

    Attributes:
        operation: What to do.
        face: The picture.
        field: Path of the face in the call, for errors.
        memory_bytes: Memory that the work may take beyond what the process has already.
    """

    operation: Operation
    face: FaceImage
    field: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class DecodeAnswer:
    """The outcome for one picture.

    Attributes:
        result: The result of the operation, or the error of the picture.
        resident_bytes: Memory that the process has after the work.
    """

    result: DecodeResult | MagFaceError
    resident_bytes: int


def send_request(connection: socket.socket, request: DecodeRequest) -> None:
    """Send a request; raises OSError if the process has ended."""
    face = _FACE_IMAGE.dump_python(replace(request.face, data=b""), exclude={"data"})
    header = {
        "operation": request.operation,
        "face": face,
        "field": request.field,
        "memory_bytes": request.memory_bytes,
    }
    _send(connection, header, request.face.data)


def receive_request(connection: socket.socket) -> DecodeRequest:
    """Wait for a request; raises EOFError when the other side has closed the connection."""
    header, data = _receive(connection)
    face = _FACE_IMAGE.validate_python({**header.pop("face"), "data": data})
    return DecodeRequest(face=face, **header)


def send_answer(connection: socket.socket, answer: DecodeAnswer) -> None:
    """Send an answer; raises OSError if the other side has closed the connection."""
    header, payload = _pack(answer.result)
    _send(connection, header | {"resident_bytes": answer.resident_bytes}, payload)


def receive_answer(connection: socket.socket) -> DecodeAnswer:
    """Wait for an answer.

    Raises:
        EOFError: If the process ended without one.
        ValueError: If it is malformed.
        OSError: If the connection was lost.
    """
    header, payload = _receive(connection)
    try:
        return DecodeAnswer(_unpack(header, payload), int(header["resident_bytes"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"a malformed answer: {error!r}") from error


def _pack(result: DecodeResult | MagFaceError) -> tuple[dict[str, Any], bytes]:
    match result:
        case bytes():
            return {"kind": "hash"}, result
        case InvalidInput():
            return {"kind": "invalid", "field": result.field, "reason": result.reason}, b""
        case MagFaceError():
            return {"kind": "impossible", "message": str(result)}, b""
        case Detection():
            return {"kind": "detection", "value": _DETECTION.dump_python(result)}, b""
        case FaceCrop():
            face = _DETECTED_FACE.dump_python(result.face)
            header = {"kind": "crop", "faces_found": result.faces_found, "face": face}
            return header, np.ascontiguousarray(result.pixels).tobytes()


def _unpack(header: dict[str, Any], payload: bytes) -> DecodeResult | MagFaceError:
    match header["kind"]:
        case "hash":
            if len(payload) != HASH_BYTES:
                raise ValueError(f"a hash of {len(payload)} bytes")
            return payload
        case "invalid":
            return InvalidInput(str(header["field"]), str(header["reason"]))
        case "impossible":
            return PreconditionFailed(str(header["message"]))
        case "detection":
            return _DETECTION.validate_python(header["value"])
        case "crop":
            pixels = np.frombuffer(payload, np.uint8).reshape(CROP_SIZE, CROP_SIZE, 3)
            face = _DETECTED_FACE.validate_python(header["face"])
            return FaceCrop(pixels, int(header["faces_found"]), face)
        case kind:
            raise ValueError(f"an answer of the unknown kind {kind!r}")


def _send(connection: socket.socket, header: dict[str, Any], payload: bytes) -> None:
    text = json.dumps(header).encode()
    connection.sendall(_LENGTHS.pack(len(text), len(payload)) + text)
    if payload:
        connection.sendall(payload)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    header_bytes, payload_bytes = _LENGTHS.unpack(_receive_exactly(connection, _LENGTHS.size))
    if header_bytes > _MAX_HEADER_BYTES:
        raise ValueError(f"a message with a header of {header_bytes} bytes")
    header = json.loads(_receive_exactly(connection, header_bytes))
    return header, bytes(_receive_exactly(connection, payload_bytes))


def _receive_exactly(connection: socket.socket, size: int) -> bytearray:
    received = bytearray(size)
    view, done = memoryview(received), 0
    while done < size:
        count = connection.recv_into(view[done:])
        if count == 0:
            raise EOFError
        done += count
    return received
