"""The trainer as it is run in earnest: a process of its own, spoken to over gRPC."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from magface.v1 import trainer_pb2 as pb
from magface.v1 import trainer_pb2_grpc

from shared.rpc.channel import open_sync_channel
from shared.settings import ObjectStoreSettings
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
_CHUNK = 2**20


def service_environment(
    database_url: str, s3: ObjectStoreSettings, folder: Path, **more: object
) -> dict[str, str]:
    """Settings of a service on these stores, whose own files go into the folder."""
    settings = {
        "database_url": database_url,
        "s3_endpoint": s3.s3_endpoint,
        "s3_access_key": s3.s3_access_key,
        "s3_secret_key": s3.s3_secret_key.get_secret_value(),
        "s3_bucket": s3.s3_bucket,
        "endpoint_file": folder / "endpoint",
        "work_dir": folder / "work",
        # Nobody listens there: a test that needs the feedback service says so.
        "feedback_address": "127.0.0.1:9",
        **more,
    }
    return {f"MAGFACE_{name.upper()}": str(value) for name, value in settings.items()}


class ServiceProcess:
    """A service that can be killed and started again."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self._module = module
        self._environment = environment
        self._endpoint_file = Path(environment["MAGFACE_ENDPOINT_FILE"])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self._endpoint_file.read_text()

    def start(self) -> None:
        self._endpoint_file.parent.mkdir(parents=True, exist_ok=True)
        self._endpoint_file.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            cwd=REPOSITORY,
            env=os.environ | self._environment,
        )
        wait_until(self._endpoint_file.exists, 30)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(timeout=30)

    @contextmanager
    def running(self) -> Iterator["ServiceProcess"]:
        self.start()
        try:
            yield self
        finally:
            self.stop()


class TrainerClient:
    """Calls the trainer of a process, also after it was started again elsewhere."""

    def __init__(self, process: ServiceProcess) -> None:
        self._process = process

    @property
    def stub(self) -> trainer_pb2_grpc.TrainerServiceStub:
        return trainer_pb2_grpc.TrainerServiceStub(open_sync_channel(self._process.address))

    def job(self, job_id: str) -> pb.Job:
        return self.stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=10).job

    def jobs(self) -> list[pb.Job]:
        return list(self.stub.ListJobs(pb.ListJobsRequest(), timeout=10).jobs)

    def models(self) -> pb.ListModelsResponse:
        return self.stub.ListModels(pb.ListModelsRequest(), timeout=10)

    def follow(self, job_id: str, timeout_s: float = 120) -> list[pb.WatchJobResponse]:
        """Watch a job until it ends; gives its events."""
        return list(self.stub.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=timeout_s))

    def upload(self, parts: Iterable[pb.ImportModelRequest]) -> pb.Job:
        return self.stub.ImportModel(iter(parts), timeout=60).job

    def import_file(self, data: bytes, **options: object) -> pb.Job:
        return self.upload(upload_parts(data, **options))


def upload_parts(data: bytes, **options: object) -> Iterator[pb.ImportModelRequest]:
    yield pb.ImportModelRequest(options=pb.ImportOptions(**{"requested_by": "ada", **options}))
    for start in range(0, len(data), _CHUNK):
        yield pb.ImportModelRequest(chunk=data[start : start + _CHUNK])
