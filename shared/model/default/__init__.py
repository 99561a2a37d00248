"""The network that is served before anybody has trained one; see the README beside it."""

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from shared.model.manifest import ChannelOrder

DEFAULT_CHECKPOINT: Final = Path(__file__).with_name("magface_iresnet18w16.safetensors")
CALIBRATION_FILE: Final = Path(__file__).with_name("calibration.json")


class DefaultCalibration(BaseModel):
    """What a manifest needs and the weights do not tell, measured on real faces.

    Attributes:
        channel_order: What the network was trained with.
        threshold: The one with the fewest errors on the pairs of the README.
        magnitude_quantiles: 101, as `Manifest.magnitude_quantiles` wants them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel_order: ChannelOrder
    threshold: float
    magnitude_quantiles: tuple[float, ...]


def default_calibration() -> DefaultCalibration:
    """Read the calibration of `DEFAULT_CHECKPOINT`."""
    return DefaultCalibration.model_validate_json(CALIBRATION_FILE.read_bytes())
