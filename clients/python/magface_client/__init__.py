"""Client of the MagFace face verification service."""

from magface_client.access import Access
from magface_client.aio import AsyncClient
from magface_client.client import Client
from magface_client.errors import (
    AbortedError,
    AlreadyExistsError,
    ClientError,
    ConfigurationError,
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from magface_client.pictures import ByHash, Picture, SavedEmbedding
from magface_client.rebasing import EmbeddingStore, RebaseProgress, RebaseReport
from magface_client.results import Face, FaceBox, Receipt, ServingInfo, Streamed, Verification

__all__ = [
    "AbortedError",
    "Access",
    "AlreadyExistsError",
    "AsyncClient",
    "ByHash",
    "Client",
    "ClientError",
    "ConfigurationError",
    "DeadlineError",
    "EmbeddingStore",
    "Face",
    "FaceBox",
    "FailedPreconditionError",
    "InvalidArgumentError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "Picture",
    "RebaseProgress",
    "RebaseReport",
    "Receipt",
    "SavedEmbedding",
    "ServiceError",
    "ServingInfo",
    "Streamed",
    "UnauthenticatedError",
    "UnavailableError",
    "Verification",
]
