"""``endpoints.json``: the addresses and credentials of a running stack."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from shared.errors import PreconditionFailed
from shared.files import write_atomically
from shared.settings import ObjectStoreSettings

_FILE_NAME = "endpoints.json"


class S3Endpoint(BaseModel):
    """Address, keys and bucket for an S3 client."""

    model_config = ConfigDict(hide_input_in_errors=True)

    endpoint: str
    access_key: str = Field(repr=False)
    secret_key: str = Field(repr=False)
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
        metrics: ``host:port`` of the metrics page of each service, by its name.
        pid: Process id of the supervisor.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    embedder: str
    feedback: str
    trainer: str
    embedders: list[str]
    s3: S3Endpoint
    database_url: str = Field(repr=False)
    metrics: dict[str, str] = Field(default_factory=dict)
    pid: int

    def without_secrets(self) -> dict[str, Any]:
        """Gives what may be printed, for JSON: no password, no key."""
        return self.model_dump(exclude={"database_url": True, "s3": {"access_key", "secret_key"}})

    def write(self, folder: Path) -> None:
        write_atomically(folder / _FILE_NAME, self.model_dump_json(indent=2) + "\n", 0o600)

    @staticmethod
    def remove(folder: Path) -> None:
        (folder / _FILE_NAME).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> "Endpoints | None":
        """Reads the file; None where no stack is ready.

        Raises:
            PreconditionFailed: The file is damaged.
        """
        path = folder / _FILE_NAME
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise PreconditionFailed(
                f"{path.absolute()} is damaged: restart the `magface up` that wrote it"
            ) from error
