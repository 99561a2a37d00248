"""Pool of processes that decode pictures, so that a picture can cost only itself."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final, TypeVar, cast

from shared.decoding import metrics
from shared.decoding.cost import decode_cost, decoded_pixels
from shared.decoding.messages import DecodeAnswer, DecodeRequest, DecodeResult, Operation
from shared.decoding.processes import DecodeProcess, ForkServer, Stopped
from shared.decoding.queue import DecodeOutcome, DecodeQueue, DecodeTask, Lane
from shared.decoding.settings import DecodingSettings, quick_pixels
from shared.errors import InvalidInput, Overloaded, Unavailable
from shared.model.image.face import Detection, FaceCrop, FaceImage

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
# A slow picture gets a hundredth of a processor that others want.
_NICENESS: Final[dict[Lane, int]] = {"quick": 0, "slow": 19}
# A picture that is expected to take longer, or that takes longer, goes into the slow lane.
_QUICK_SECONDS: Final = 0.8
_QUICK_CPU_S: Final = 1.0
# A process that has more memory after its work is replaced.
_MAX_RESIDENT_BYTES: Final = 192 * 2**20


class DecodePool:
    """Decodes pictures in processes of their own.

    A picture that takes too long, too much memory, or crashes its process fails alone: the process
    is replaced. Large and slow pictures are decoded one at a time and with low priority.

    Args:
        settings: Number of processes, their limits and those of the pictures.

    Raises:
        PreconditionFailed: If the memory is too small for the largest picture.
    """

    def __init__(self, settings: DecodingSettings) -> None:
        self._settings = settings
        self._quick_pixels = quick_pixels(settings)
        pixels: dict[Lane, int] = {
            "quick": self._quick_pixels,
            "slow": settings.image_max_pixels,
        }
        self._queue = DecodeQueue(pixels)
        self._server = ForkServer(settings)
        quick: list[Lane] = ["quick"] * settings.decode_processes
        lanes: list[Lane] = ["slow", *quick]
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"decode-{number}", daemon=True)
            for number, lane in enumerate(lanes)
        ]

    def start(self) -> None:
        """Start the threads, which start their processes."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Decode what was submitted, then end the processes. Blocks."""
        self._queue.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._server.close()

    def decoded_pixels(self, face: FaceImage) -> int:
        """Return the pixels that a picture has by its header; 0 if it will be refused."""
        return decoded_pixels(face.data, self._settings)

    def submit(
        self,
        operation: Operation,
        faces: Sequence[tuple[str, FaceImage]],
        done: Callable[[int, DecodeOutcome], None],
        deadline: float = inf,
        *,
        background: bool = False,
    ) -> list[DecodeTask]:
        """Work on the pictures of a call; returns at once.

        Args:
            operation: What to do with each.
            faces: With the path of each in the call, for errors.
            done: Takes the number of a picture in the call and its outcome, on a thread of the
                pool; must not raise. It is not called for a cancelled picture.
            deadline: By `time.monotonic`; then the work ends with `Overloaded`.
            background: Whether the work has the low priority of slow pictures.

        Returns:
            What `cancel` takes.
        """
        tasks = [
            self._task(operation, face, field, partial(done, number), deadline)
            for number, (field, face) in enumerate(faces)
        ]
        if background:
            for task in tasks:
                task.lane = "slow"
        self._queue.put(tasks)
        return tasks

    def cancel(self, tasks: Sequence[DecodeTask]) -> None:
        """Drop pictures that are not decoded yet, and end the work on the others."""
        self._queue.cancel(tasks)

    async def read(
        self, face: FaceImage, field: str, deadline: float = inf, *, background: bool = False
    ) -> FaceCrop:
        """Decode and align one face, as `FaceReader.read`; cancelling ends the work.

        Args:
            face: The face image.
            field: Path of the face in the call, for errors.
            deadline: By `time.monotonic`.
            background: Whether it has the low priority of slow pictures.

        Raises:
            InvalidInput: If the picture cannot be decoded, also because that takes too much time
                or memory.
            PreconditionFailed: If the face must be detected and there is no detector.
            Overloaded: If the deadline passed.
        """
        outcome = self._one("read", face, field, deadline, background=background)
        return cast("FaceCrop", _result(await outcome))

    async def detect(self, data: bytes, field: str, deadline: float = inf) -> Detection:
        """Find all faces of a picture, as `FaceReader.detect`; raises as `read`."""
        outcome = self._one("detect", FaceImage(data), field, deadline)
        return cast("Detection", _result(await outcome))

    async def check(
        self, face: FaceImage, field: str, deadline: float = inf, *, require_face: bool = False
    ) -> bytes:
        """Check that a face can be read, as `FaceReader.check`; raises as `read`.

        Args:
            face: The face image.
            field: Path of the face in the call, for errors.
            deadline: By `time.monotonic`.
            require_face: Whether the crop must also show a face, as far as that can be told: a
                photograph without a detector passes, and a crop whose `on_no_face` is "mark".

        Returns:
            The perceptual hash of the picture, 32 bytes.
        """
        operation: Operation = "check_face" if require_face else "check"
        return cast("bytes", _result(await self._one(operation, face, field, deadline)))

    async def _one(
        self,
        operation: Operation,
        face: FaceImage,
        field: str,
        deadline: float,
        *,
        background: bool = False,
    ) -> DecodeOutcome:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[DecodeOutcome] = loop.create_future()

        def deliver(outcome: DecodeOutcome) -> None:
            if not future.done():
                future.set_result(outcome)

        def done(_: int, outcome: DecodeOutcome) -> None:
            loop.call_soon_threadsafe(deliver, outcome)

        tasks = self.submit(operation, [(field, face)], done, deadline, background=background)
        try:
            outcome = await future
        except asyncio.CancelledError:
            self.cancel(tasks)
            raise
        return outcome

    def _task(
        self,
        operation: Operation,
        face: FaceImage,
        field: str,
        done: Callable[[DecodeOutcome], None],
        deadline: float,
    ) -> DecodeTask:
        cost = decode_cost(face, operation, self._settings)
        slow = cost.seconds > _QUICK_SECONDS or cost.pixels > self._quick_pixels
        lane: Lane = "slow" if slow else "quick"
        return DecodeTask(operation, face, field, deadline, done, cost, lane)

    def _run(self, lane: Lane) -> None:
        process: DecodeProcess | None = None
        while True:
            # Started before there is work for it, so that the next picture does not wait.
            process = process or self._start_process(lane)
            task = self._queue.take(lane)
            if task is None:
                break
            process = process or self._start_process(lane)
            if process is None:
                self._finish(task, Unavailable("no decode process can be started; try again later"))
            else:
                process = self._work(process, task)
            # The last picture must not stay in memory while there is no other.
            del task
        if process is not None:
            process.close()

    def _start_process(self, lane: Lane) -> DecodeProcess | None:
        try:
            return self._server.start(_NICENESS[lane])
        except Unavailable:
            _log.exception("a decode process cannot be started")
            return None

    def _work(self, process: DecodeProcess, task: DecodeTask) -> DecodeProcess | None:
        """Let a process work on a task; gives the process if it can go on."""
        started = time.monotonic()
        if task.deadline <= started:
            self._finish(task, self._error(task, Stopped.DEADLINE))
            return process
        if not self._queue.begin(task, process):
            self._queue.finish(task)
            return process
        request = DecodeRequest(task.operation, task.face, task.field, task.cost.memory_bytes)
        outcome = process.run(request, self._cpu_s(task), task.deadline)
        if isinstance(outcome, DecodeAnswer):
            metrics.SECONDS.observe(time.monotonic() - started)
            # A cancelled task may have interrupted its process.
            if self._finish(task, outcome.result) and outcome.resident_bytes < _MAX_RESIDENT_BYTES:
                return process
            process.close()
            return None
        self._give_up(task, outcome, process.started_at)
        return None

    def _cpu_s(self, task: DecodeTask) -> float:
        most = self._settings.decode_cpu_s
        return most if task.lane == "slow" else min(most, _QUICK_CPU_S)

    def _give_up(self, task: DecodeTask, reason: Stopped, process_started_at: float) -> None:
        if task.cancelled:
            metrics.PROCESSES_ENDED.labels("cancelled").inc()
            self._queue.finish(task)
            return
        metrics.PROCESSES_ENDED.labels(reason.value).inc()
        if reason is Stopped.CPU and self._cpu_s(task) < self._settings.decode_cpu_s:
            self._queue.put_back(task, "slow")
        elif reason is Stopped.KILLED and (
            # Processes that were there at the first kill may have been killed together.
            task.killed_at is None or process_started_at <= task.killed_at
        ):
            _log.warning("a decode process was killed; its picture is decoded again")
            task.killed_at = task.killed_at or time.monotonic()
            self._queue.put_back(task, task.lane)
        else:
            self._finish(task, self._error(task, reason))

    def _error(self, task: DecodeTask, reason: Stopped) -> Exception:
        field = f"{task.field}.data"
        match reason:
            case Stopped.CPU:
                return InvalidInput(
                    field,
                    f"takes more than {self._settings.decode_cpu_s:g} s of processor time to "
                    "decode (MAGFACE_DECODE_CPU_S); save it as a JPEG that is not progressive",
                )
            case Stopped.DEADLINE:
                return Overloaded("the call's deadline passed while its pictures were decoded", 1.0)
            case Stopped.STALLED:
                return Unavailable(f"{field} was not decoded in time; try again later")
            case Stopped.KILLED | Stopped.CRASHED:
                return InvalidInput(
                    field, "could not be decoded: it ended the decoder; save it again"
                )

    def _finish(self, task: DecodeTask, outcome: DecodeOutcome) -> bool:
        wanted = self._queue.finish(task)
        if wanted:
            task.done(outcome)
        return wanted


def _result(outcome: DecodeOutcome) -> DecodeResult:
    """Give a result, or raise an error."""
    try:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
    finally:
        # The error refers to this frame, which would keep it until the next garbage collection.
        del outcome
