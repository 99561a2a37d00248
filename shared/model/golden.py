"""Golden crops: the self-check of a model version when it is loaded."""

import base64
import binascii
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptData
from shared.model.image.align import CROP_SIZE
from shared.model.manifest import GoldenCrop, Manifest, read_manifest
from shared.model.sessions.base import Session, split_features
from shared.model.sessions.factory import open_session

MIN_COSINE = 0.9999
MAX_MAGNITUDE_ERROR = 1e-3
# Half precision has 11 significant bits; its error on real faces was up to 1.3e-3.
_MAX_HALF_MAGNITUDE_ERROR = 5e-3


def require_same(
    name: str,
    want: NDArray[np.float32],
    got: NDArray[np.float32],
    max_magnitude_error: float = MAX_MAGNITUDE_ERROR,
) -> None:
    """Compare two sets of features row by row.

    Args:
        name: Name of the comparison, for the error.
        want: float32 [N, D], expected features.
        got: float32 [N, D], actual features.
        max_magnitude_error: Largest relative error of a magnitude.

    Raises:
        CorruptData: If a cosine is below 0.9999, a magnitude differs by more than that error, or
            a row is NaN or zero.
    """
    if want.shape != got.shape:
        raise CorruptData(f"{name}: shape {got.shape} instead of {want.shape}")
    want_embeddings, want_magnitudes = split_features(want)
    embeddings, magnitudes = split_features(got)
    cosine = np.einsum("nd,nd->n", want_embeddings, embeddings, dtype=np.float64).min()
    error = np.abs(magnitudes / want_magnitudes - 1).max()
    if cosine < MIN_COSINE or error > max_magnitude_error:
        raise CorruptData(
            f"{name}: cosine {cosine:.6f} (must be at least {MIN_COSINE}), "
            f"relative error of the magnitude {error:.2g} (must be at most {max_magnitude_error})"
        )


def make_golden(session: Session, crops: NDArray[np.uint8]) -> tuple[GoldenCrop, ...]:
    """Record the output of a session for some faces.

    Args:
        session: Session of the new version.
        crops: uint8 [N, 112, 112, 3], BGR.
    """
    embeddings, magnitudes = split_features(session.run(crops))
    return tuple(
        GoldenCrop(
            png=base64.b64encode(cv2.imencode(".png", crop)[1].tobytes()).decode(),
            embedding=base64.b64encode(embedding.astype("<f4").tobytes()).decode(),
            magnitude=float(magnitude),
        )
        for crop, embedding, magnitude in zip(crops, embeddings, magnitudes, strict=True)
    )


def golden_crops(manifest: Manifest) -> NDArray[np.uint8]:
    """Decode the golden crops of a manifest, for the self-check or to warm up an engine.

    Returns:
        uint8 [N, 112, 112, 3], BGR.

    Raises:
        CorruptData: If a golden crop is not a 112x112 PNG.
    """
    crops = []
    for number, golden in enumerate(manifest.golden):
        data = np.frombuffer(_from_base64(golden.png, f"golden[{number}].png"), np.uint8)
        crop = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if crop is None or crop.shape != (CROP_SIZE, CROP_SIZE, 3):
            raise CorruptData(
                f"golden[{number}].png of {manifest.model_version} is not a 112x112 PNG"
            )
        crops.append(crop.astype(np.uint8, copy=False))
    return np.stack(crops)


def check_golden(session: Session, manifest: Manifest) -> None:
    """Check that a loaded version gives the output that is recorded in its manifest.

    Raises:
        CorruptData: If it does not, or if the golden crops of the manifest are damaged.
    """
    features = session.run(golden_crops(manifest))
    want = np.empty((len(manifest.golden), manifest.embedding_size), np.float32)
    for number, golden in enumerate(manifest.golden):
        data = _from_base64(golden.embedding, f"golden[{number}].embedding")
        if len(data) != want[number].nbytes:
            raise CorruptData(
                f"golden[{number}].embedding of {manifest.model_version} has {len(data)} bytes "
                f"instead of {want[number].nbytes}"
            )
        want[number] = np.frombuffer(data, "<f4") * golden.magnitude
    half = session.device == "cuda-fp16"
    error = _MAX_HALF_MAGNITUDE_ERROR if half else MAX_MAGNITUDE_ERROR
    require_same(f"self-check of {manifest.model_version}", want, features, error)


def passes_self_check(folder: Path) -> bool:
    """Say whether the version in a folder can be loaded and passes the self-check."""
    try:
        check_golden(open_session(folder), read_manifest(folder))
    except CorruptData:
        return False
    return True


def _from_base64(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise CorruptData(f"{field} is not base64: {error}") from error
