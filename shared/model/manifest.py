"""Manifest of a model version: all that is needed to serve it, apart from the weights."""

import hashlib
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.errors import CorruptData
from shared.model.operating_curve import OperatingCurve, OperatingPoint

ONNX_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"
MANIFEST_FILE = "manifest.json"

# Epsilon of MagFace's BatchNorms, and of manifests that do not say it.
MAGFACE_EPS = 2e-5

_LATER_FIELDS = ("batch_norm_eps", "operating_curve", "reference_note")

ChannelOrder = Literal["bgr", "rgb"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """Checksum and size of one file of the version."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=1)


class GoldenCrop(_Frozen):
    """A face with the output that the version must give for it when it is loaded.

    Attributes:
        png: A 112x112 PNG in base64.
        embedding: The unit embedding as little-endian float32, in base64.
        magnitude: Norm of the features.
    """

    png: str
    embedding: str
    magnitude: float = Field(gt=0)


class ProbabilityCurve(_Frozen):
    """Logistic map from similarity to the probability that a pair is genuine (Platt 1999)."""

    slope: float = Field(allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)

    @property
    def even(self) -> float:
        """Similarity with probability one half, clipped to -1..1; 1 for a slope of 0 or less."""
        if self.slope <= 0:
            return 1.0
        return float(np.clip(-self.intercept / self.slope, -1.0, 1.0))

    def __call__(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability 0..1 for similarities of any shape, at a prior of one half."""
        # The logistic function in a form that cannot overflow.
        return np.asarray((1 + np.tanh((self.slope * similarity + self.intercept) / 2)) / 2)


class Manifest(_Frozen):
    """Describes one immutable model version.

    Attributes:
        model_version: Its name, and the name of its folder in the object store.
        architecture: ``iresnet18`` and so on, derived from the shapes of the weights.
        embedding_size: Length of the embedding.
        scale: Factor for the pixels of the network's input.
        batch_norm_eps: Epsilon of the BatchNorms; 2e-5 in MagFace and in manifests without it.
        channel_order: Channel order that the network was trained with.
        threshold: Cosine similarity from which two faces are the same person where no target
            false-match rate is set. That of a fine-tuned version weighs both errors equally.
        magnitude_quantiles: Magnitudes of a reference set at evenly spaced quantiles 0..1, in
            ascending order; the quality of a face is the quantile of its magnitude.
        probability: Probability of a genuine pair by similarity; None where it has not been
            measured, as for an import.
        operating_curve: Measured thresholds and error rates by false-match rate; None for a
            version of an earlier release.
        parent_version: The version it was fine-tuned from; None for an import.
        job_id: The job of the trainer that made it.
        data_snapshot: Snapshot of the feedback it was trained on; None for an import.
        compatible_versions: Other versions whose embeddings it can be compared with, as
            measured.
        reference: SHA-256 of the reference faces on which its descendants must not get worse;
            None if they were the bundled crops or people of the feedback, which are not stored.
        reference_note: What these faces are and how they were chosen, for a person; empty for a
            version of an earlier release.
        metrics: Figures measured when it was made, by name.
        files: Checksums of the other files in the folder.
        golden: Faces for the self-check on load.
    """

    format: Literal[1] = 1
    model_version: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")
    architecture: str
    embedding_size: int = Field(ge=1)
    input_size: Literal[112] = 112
    scale: float = 1 / 255
    batch_norm_eps: float = Field(default=MAGFACE_EPS, gt=0, le=1e-2)
    channel_order: ChannelOrder
    threshold: float = Field(ge=-1, le=1)
    magnitude_quantiles: tuple[float, ...] = Field(min_length=2)
    probability: ProbabilityCurve | None = None
    operating_curve: OperatingCurve | None = None
    parent_version: str | None
    job_id: str
    data_snapshot: str | None
    created_at: datetime
    compatible_versions: tuple[str, ...] = ()
    reference: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    reference_note: str = ""
    metrics: dict[str, float] = {}
    files: dict[str, FileEntry]
    golden: tuple[GoldenCrop, ...] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _valid_names(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if name in {"", ".", "..", MANIFEST_FILE} or "/" in name:
                raise ValueError(f"{name!r} is not a valid name of a file in the folder")
        return files

    @field_validator("magnitude_quantiles")
    @classmethod
    def _ascending(cls, quantiles: tuple[float, ...]) -> tuple[float, ...]:
        steps = np.diff(quantiles)
        if not (np.isfinite(quantiles).all() and (steps >= 0).all() and quantiles[0] > 0):
            raise ValueError("must be positive, finite and ascending")
        return quantiles

    def quality(self, magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the quantile of each magnitude in the reference set, 0..1, in the same shape."""
        return np.interp(magnitudes, *self.quality_curve).astype(np.float32)

    @cached_property
    def quality_curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ascending magnitudes and the quality 0..1 of each; linear in between."""
        magnitudes = np.array(self.magnitude_quantiles)
        return magnitudes, np.linspace(0.0, 1.0, len(magnitudes))

    def scaled_quantiles(self, ratio: float) -> tuple[float, ...]:
        """Return the quantiles for a network whose magnitudes are all larger by a ratio."""
        return tuple(quantile * ratio for quantile in self.magnitude_quantiles)

    def kept_point(self, target_fmr: float | None) -> OperatingPoint | None:
        """Return the operating point at which the version serves.

        Args:
            target_fmr: The operator's target; None if there is none.

        Returns:
            None where it serves at `threshold`: without a target, or without a measured curve.
            Where the curve does not resolve the target, its strictest point.
        """
        if target_fmr is None or self.operating_curve is None:
            return None
        return self.operating_curve.at(target_fmr)

    def to_json(self) -> str:
        """Give the content of the manifest's file."""
        # Releases without these fields refuse them, and mean the default.
        unsaid = {
            name
            for name in _LATER_FIELDS
            if getattr(self, name) == Manifest.model_fields[name].default
        }
        return self.model_dump_json(indent=2, exclude=unsaid)

    def write(self, folder: Path) -> None:
        (folder / MANIFEST_FILE).write_text(self.to_json())


def quantiles_of(magnitudes: NDArray[np.float32], count: int = 101) -> tuple[float, ...]:
    """Return evenly spaced quantiles of magnitudes, for `Manifest.magnitude_quantiles`.

    Args:
        magnitudes: (N,), magnitudes of faces as the version will be used for.
        count: Number of quantiles, including 0 and 1.
    """
    quantiles = np.quantile(magnitudes.astype(np.float64), np.linspace(0, 1, count))
    return tuple(float(value) for value in quantiles)


def describe_file(path: Path) -> FileEntry:
    """Return the entry of `Manifest.files` for a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=sha256, size=path.stat().st_size)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest in the folder of a version.

    Raises:
        CorruptData: If it does not exist or is invalid.
    """
    path = folder / MANIFEST_FILE
    where = f"{folder.name}/{path.name}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptData(f"{where} cannot be read: {error.strerror}", detail=str(path)) from error
    return parse_manifest(data, where)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse a manifest.

    Args:
        data: JSON.
        where: The file or object it was read from, for the error.

    Raises:
        CorruptData: If it is invalid.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise CorruptData(f"{where} is not a valid manifest", detail=str(error)) from error
