"""Settings of the trainer and its workers, read from the environment."""

from pathlib import Path
from typing import Final

from pydantic import Field

from shared.settings import (
    ClientSettings,
    DatabaseSettings,
    ImageLimits,
    RegistrySettings,
    ServerAddress,
    ServerSettings,
)

OUTAGE_LIMIT_S: Final = 3600.0
MOST_QUEUED_JOBS: Final = 100


class SigningSettings(RegistrySettings):
    """Keys of the trainer and its workers.

    Attributes:
        model_signing_key: Private key (JWK) that pointers and manifests are signed with; unset,
            they are not signed.
    """

    model_signing_key: Path | None = None


class TrainerSettings(ServerSettings, DatabaseSettings, SigningSettings):
    """Settings of the trainer's server, read from ``MAGFACE_…`` variables.

    Attributes:
        work_dir: Temporary files of uploads and jobs; needs room for a few checkpoints.
        upload_max_bytes: Largest checkpoint accepted, in bytes.
        import_memory_bytes: Most memory of the worker of an import, in bytes; if not set, what
            the largest network takes (6 GiB) and the largest upload.
        worker_memory_bytes: The same for every process of the other jobs; not limited if not set.
        train_processes: Processes that share a training, e.g. one per GPU.
        queued_jobs: Jobs that wait, above which further ones are refused.
        outage_limit_s: Longest outage of Postgres, the object store or the feedback service that
            a job waits out, in seconds.
    """

    work_dir: Path = Path("trainer-work")
    upload_max_bytes: int = Field(default=2 * 2**30, ge=2**20)
    import_memory_bytes: int | None = Field(default=None, ge=2**28)
    worker_memory_bytes: int | None = Field(default=None, ge=2**28)
    train_processes: int = Field(default=1, ge=1)
    queued_jobs: int = Field(default=MOST_QUEUED_JOBS, ge=1)
    outage_limit_s: float = Field(default=OUTAGE_LIMIT_S, ge=0)


class WorkerSettings(SigningSettings, ImageLimits, ClientSettings):
    """Settings of the worker processes, read from ``MAGFACE_…`` variables.

    Attributes:
        feedback_address: ``host:port`` of the feedback service.
        train_images_at_once: Most images whose activations a training keeps in memory. A lower
            value needs less memory, but larger steps are computed twice. By default as many as
            take 2 GiB, or half of the memory of a GPU, but at most 72.
        reference_faces: Folder with one folder of aligned faces per identity. A candidate must
            not get worse at these. They are stored with each version that is made while this is
            set. If it is not set, the faces stored with the parent are used, or else people of the
            feedback or the bundled made-up people.
    """

    feedback_address: ServerAddress
    train_images_at_once: int | None = Field(default=None, ge=1)
    reference_faces: Path | None = None
