"""What the trainer takes from the environment."""

from pathlib import Path

from pydantic import Field

from shared.settings import DatabaseSettings, ImageLimits, ObjectStoreSettings, ServerSettings


class TrainerSettings(ServerSettings, DatabaseSettings, ObjectStoreSettings):
    """Settings of the trainer's server, each as ``MAGFACE_…``.

    Attributes:
        work_dir: Scratch space for uploads and jobs; needs room for a few checkpoints.
        upload_max_bytes: Largest checkpoint accepted.
        train_processes: Processes that share a training, for instance one a GPU.
    """

    work_dir: Path = Path("trainer-work")
    upload_max_bytes: int = Field(default=2 * 2**30, ge=2**20)
    train_processes: int = Field(default=1, ge=1)


class WorkerSettings(ObjectStoreSettings, ImageLimits):
    """Settings of the process that does a job, each as ``MAGFACE_…``.

    Attributes:
        feedback_address: ``host:port`` of the feedback service.
        train_images_at_once: Most images whose inner values a training keeps in memory: lower
            it where memory is short, at the cost of computing larger steps twice.
        reference_faces: A folder per identity of aligned faces that no fine-tuning may
            get worse at; stored with the versions made under it. Without it those count
            that are stored with the parent, and the bundled made-up people where none are.
    """

    feedback_address: str
    train_images_at_once: int = Field(default=72, ge=1)
    reference_faces: Path | None = None
