"""The models that an evaluation can measure: published versions and checkpoint files."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from magface.v1 import embedder_pb2

from cli.clients import CALL_TIMEOUT_S, DEFAULT_DIR, embedder
from cli.output import messages
from deploy.local.endpoints import Endpoints
from shared.errors import PreconditionFailed
from shared.model.manifest import ChannelOrder, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.network.iresnet import IResNet
from shared.model.sessions.base import Session
from shared.model.sessions.factory import open_session
from shared.model.sessions.torch import TorchSession
from shared.registry.serving_pointer import read_pointer
from shared.registry.signed_objects import SignedObjects
from shared.registry.version_store import VersionStore
from shared.settings import ObjectStoreSettings

_CHECKPOINT_THRESHOLD = 0.4


@dataclass(frozen=True)
class EvaluatedModel:
    """A network to measure, with its default threshold."""

    name: str
    session: Session
    threshold: float


def load_local_network(path: Path, eps: float | None = None) -> IResNet:
    """Loads a checkpoint file, and prints what a person should know about it.

    Args:
        path: The file.
        eps: Epsilon of the BatchNorms; None to tell by the file.

    Raises:
        InvalidInput: The checkpoint is incomplete or damaged.
    """
    checkpoint = load_checkpoint(path, eps=eps)
    if checkpoint.warning:
        messages.print(f"warning: {checkpoint.warning}", style="yellow", markup=False)
    return checkpoint.network


def open_checkpoint(path: Path, channel_order: ChannelOrder, eps: float | None) -> EvaluatedModel:
    """Opens a checkpoint file with torch; see `load_local_network` for ``eps``.

    Raises:
        InvalidInput: The checkpoint is incomplete.
    """
    network = load_local_network(path, eps)
    return EvaluatedModel(str(path), TorchSession(network, channel_order), _CHECKPOINT_THRESHOLD)


def open_version(model_version: str, folder: Path | None) -> EvaluatedModel:
    """Fetches a version from the object store and opens it with onnxruntime.

    Its threshold is that of the operating point in force.

    Args:
        model_version: Empty for the serving version.
        folder: Folder of a running stack, as for all commands.

    Raises:
        NotFound: There is no such version.
        PreconditionFailed: Neither the folder nor the environment names the object store.
    """
    if not model_version:
        with embedder(folder) as stub:
            request = embedder_pb2.GetModelRequest()
            model_version = stub.GetModel(request, timeout=CALL_TIMEOUT_S).model_version
    with tempfile.TemporaryDirectory(prefix="magface-") as cache:
        objects = SignedObjects(_object_store_settings(folder))
        store = VersionStore(objects, Path(cache))
        version = store.fetch(model_version)
        session = open_session(version)
        manifest, pointer = read_manifest(version), read_pointer(objects)
        point = manifest.kept_point(pointer.target_fmr if pointer else None)
        threshold = manifest.threshold if point is None else point.threshold
        return EvaluatedModel(model_version, session, threshold)


def open_named(
    name: str, channel_order: ChannelOrder, eps: float | None, folder: Path | None
) -> EvaluatedModel:
    """Opens the checkpoint file of that name if there is one, otherwise the version."""
    path = Path(name)
    if path.is_file():
        return open_checkpoint(path, channel_order, eps)
    return open_version(name, folder)


def _object_store_settings(folder: Path | None) -> ObjectStoreSettings:
    """Finds the object store: from ``folder``, else the environment, else ./run."""
    if folder is None and os.environ.get("MAGFACE_S3_ENDPOINT"):
        return ObjectStoreSettings()
    endpoints = Endpoints.read(folder or DEFAULT_DIR)
    if endpoints is None:
        raise PreconditionFailed(
            f"no stack is ready in {(folder or DEFAULT_DIR).absolute()}: name a running stack's "
            "folder with --dir, or set MAGFACE_S3_ENDPOINT, MAGFACE_S3_ACCESS_KEY and "
            "MAGFACE_S3_SECRET_KEY"
        )
    return endpoints.s3.settings()
