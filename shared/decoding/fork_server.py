"""The process that all decode processes are forked from: ``python -m shared.decoding.fork_server``.

It has one thread and has loaded the codecs, so a fork takes milliseconds, shares their memory, and
copies no lock of a gRPC server. It ends when its service ends, and so do the decode processes.
"""

import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Final

import cv2
import numpy as np

from shared.decoding.messages import DecodeAnswer, receive_request, send_answer
from shared.decoding.work import face_check, perform, resident_bytes
from shared.errors import MagFaceError
from shared.model.image.align import CROP_SIZE
from shared.model.image.face_reader import FaceReader
from shared.runtime import start_log
from shared.settings import ImageLimits

# A command and its argument: the niceness of a new process, or the id of one to end.
COMMAND: Final = struct.Struct("<cq")
START: Final = b"s"
END: Final = b"e"
REPLY: Final = struct.Struct("<q")
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Serve the control connection whose file descriptor is the first argument.

    The second argument has the limits of pictures, in JSON.
    """
    # The service ends its processes itself, after it has answered what it accepted.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start_log(logging.WARNING, "%(asctime)s %(levelname)s %(name)s %(message)s")
    cv2.setNumThreads(1)
    control = socket.socket(fileno=int(sys.argv[1]))
    reader = FaceReader(ImageLimits.model_validate_json(sys.argv[2]))
    _load_detector(reader)
    _load_face_check()
    gc.collect()
    # Collections in the decode processes would copy the pages of shared objects.
    gc.freeze()
    control.sendall(REPLY.pack(os.getpid()))
    with suppress(EOFError, ConnectionError):
        while True:
            _obey(control, reader)


def _load_detector(reader: FaceReader) -> None:
    """Load the model of the detector once for all processes; without one there is nothing to do."""
    black = cv2.imencode(".bmp", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    with suppress(MagFaceError):
        reader.detect(black)


def _load_face_check() -> None:
    """Load and warm up the face check once for all processes."""
    noise = np.random.default_rng(0).integers(0, 256, (1, CROP_SIZE, CROP_SIZE, 3))
    face_check().shows_face(noise.astype(np.uint8))


def _obey(control: socket.socket, reader: FaceReader) -> None:
    message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
    if not message:
        raise EOFError
    command, argument = COMMAND.unpack(message)
    if command == START:
        connection = socket.socket(fileno=descriptors[0])
        pid = _fork(control, connection, reader, argument)
        connection.close()
        control.sendall(REPLY.pack(pid))
    else:
        os.kill(argument, signal.SIGKILL)
        _, status = os.waitpid(argument, 0)
        control.sendall(REPLY.pack(os.waitstatus_to_exitcode(status)))


def _fork(
    control: socket.socket, connection: socket.socket, reader: FaceReader, niceness: int
) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        control.close()
        _die_with(parent)
        os.nice(niceness)
        _serve(connection, reader)
    except BaseException:
        logging.exception("a decode process failed")
        os._exit(1)
    os._exit(0)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    # A parent that ended before sends no signal.
    if os.getppid() != parent:
        os._exit(0)


def _serve(connection: socket.socket, reader: FaceReader) -> None:
    with suppress(EOFError, ConnectionError):
        while True:
            result = perform(reader, receive_request(connection))
            send_answer(connection, DecodeAnswer(result, resident_bytes()))


if __name__ == "__main__":
    main()
