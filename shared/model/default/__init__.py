"""The bundled network, which is served until another version is promoted; see README.md here."""

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from shared.model.manifest import ChannelOrder

DEFAULT_CHECKPOINT: Final = Path(__file__).with_name("magface_iresnet18w16.safetensors")
CALIBRATION_FILE: Final = Path(__file__).with_name("calibration.json")


class DefaultCalibration(BaseModel):
    """Fields of the manifest that the weights do not contain, measured on real faces.

    Attributes:
        channel_order: Channel order that the network was trained with.
        threshold: Threshold with the fewest errors on the pairs of the README.
        magnitude_quantiles: 101 values for `Manifest.magnitude_quantiles`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel_order: ChannelOrder
    threshold: float
    magnitude_quantiles: tuple[float, ...]


def default_calibration() -> DefaultCalibration:
    """Read the calibration of `DEFAULT_CHECKPOINT`."""
    return DefaultCalibration.model_validate_json(CALIBRATION_FILE.read_bytes())
