"""``endpoints.json``: the addresses and credentials of a running stack."""

from pathlib import Path

from pydantic import BaseModel, SecretStr

from shared.files import write_atomically
from shared.settings import ObjectStoreSettings

_FILE_NAME = "endpoints.json"


class S3Endpoint(BaseModel):
    """Address, keys and bucket for an S3 client."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    def settings(self) -> ObjectStoreSettings:
        """Gives the settings of a client."""
        return ObjectStoreSettings(
            s3_endpoint=self.endpoint,
            s3_access_key=self.access_key,
            s3_secret_key=SecretStr(self.secret_key),
            s3_bucket=self.bucket,
        )


class Endpoints(BaseModel):
    """Addresses and credentials of a running stack.

    Attributes:
        embedder: gRPC target that covers all embedders.
        feedback: ``host:port``.
        trainer: ``host:port``.
        embedders: ``host:port`` of each embedder.
        pid: Process id of the supervisor.
    """

    embedder: str
    feedback: str
    trainer: str
    embedders: list[str]
    s3: S3Endpoint
    database_url: str
    pid: int

    def write(self, folder: Path) -> None:
        write_atomically(folder / _FILE_NAME, self.model_dump_json(indent=2) + "\n", 0o600)

    @staticmethod
    def remove(folder: Path) -> None:
        (folder / _FILE_NAME).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> "Endpoints | None":
        """Reads the file; None where no stack is ready."""
        path = folder / _FILE_NAME
        return cls.model_validate_json(path.read_text()) if path.exists() else None
