"""What the trainer takes from the environment."""

from pathlib import Path

from pydantic import Field

from shared.settings import DatabaseSettings, ImageLimits, ObjectStoreSettings, ServerSettings


class TrainerSettings(ServerSettings, DatabaseSettings, ObjectStoreSettings):
    """Settings of the trainer's server, each as ``MAGFACE_…``.

    Attributes:
        work_dir: Scratch space for uploads and jobs; needs room for a few checkpoints.
        upload_max_bytes: Largest checkpoint accepted.
    """

    work_dir: Path = Path("trainer-work")
    upload_max_bytes: int = Field(default=2 * 2**30, ge=2**20)


class WorkerSettings(ObjectStoreSettings, ImageLimits):
    """Settings of the process that does a job, each as ``MAGFACE_…``.

    Attributes:
        feedback_address: ``host:port`` of the feedback service.
        reference_faces: A folder per identity of aligned faces that no fine-tuning may
            get worse at; without it only the feedback's own images are watched.
    """

    feedback_address: str
    reference_faces: Path | None = None
