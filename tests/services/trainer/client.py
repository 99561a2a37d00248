"""Client of a trainer process."""

from collections.abc import Iterable, Iterator

from magface.v1 import trainer_pb2 as pb
from magface.v1 import trainer_pb2_grpc

from shared.rpc.channel import open_sync_channel
from tests.support.processes import ServiceProcess

_CHUNK = 2**20


class TrainerClient:
    """Calls the trainer of a process, also after a restart at another address."""

    def __init__(self, process: ServiceProcess) -> None:
        self._process = process

    @property
    def address(self) -> str:
        return self._process.address

    @property
    def stub(self) -> trainer_pb2_grpc.TrainerServiceStub:
        return trainer_pb2_grpc.TrainerServiceStub(open_sync_channel(self.address))

    def job(self, job_id: str) -> pb.Job:
        return self.stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=10).job

    def jobs(self) -> list[pb.Job]:
        return list(self.stub.ListJobs(pb.ListJobsRequest(), timeout=10).jobs)

    def models(self) -> pb.ListModelsResponse:
        return self.stub.ListModels(pb.ListModelsRequest(), timeout=10)

    def follow(self, job_id: str, timeout_s: float = 120) -> list[pb.WatchJobResponse]:
        """Watch a job until it ends; returns its events."""
        return list(self.stub.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=timeout_s))

    def stages(self, job_id: str) -> list[str]:
        """List the stages that an ended job has entered, as WatchJob streams them."""
        events = self.follow(job_id)
        for event in events:
            entered = [start.stage for start in event.job.stages]
            assert entered[-1:] == [event.job.stage]
            assert entered == [start.stage for start in events[-1].job.stages][: len(entered)]
        moments = [start.started_at.ToDatetime() for start in events[-1].job.stages]
        assert moments == sorted(moments)
        streamed = {len(event.job.stages) for event in events}
        assert streamed == set(range(1, len(moments) + 1))
        names = [pb.JobStage.Name(start.stage) for start in events[-1].job.stages]
        return [name.removeprefix("JOB_STAGE_").lower() for name in names]

    def upload(self, parts: Iterable[pb.ImportModelRequest]) -> pb.Job:
        return self.stub.ImportModel(iter(parts), timeout=60).job

    def import_file(self, data: bytes, **options: object) -> pb.Job:
        return self.upload(upload_parts(data, **options))


def upload_parts(data: bytes, **options: object) -> Iterator[pb.ImportModelRequest]:
    yield pb.ImportModelRequest(options=pb.ImportOptions(**{"requested_by": "ada", **options}))
    for start in range(0, len(data), _CHUNK):
        yield pb.ImportModelRequest(chunk=data[start : start + _CHUNK])
