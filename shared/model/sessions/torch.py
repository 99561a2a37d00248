"""PyTorch sessions."""

import numpy as np
import torch
from numpy.typing import NDArray

from shared.errors import PreconditionFailed
from shared.model.manifest import ChannelOrder
from shared.model.network.iresnet import IResNet
from shared.model.sessions.base import (
    Device,
    Engine,
    check_crops,
    network_input,
    run_in_batches,
)
from shared.model.sessions.cpu import cpu_threads


def require_torch_device(device: Device) -> None:
    """Make sure that torch can use a device.

    Raises:
        PreconditionFailed: If it is not there.
    """
    if device == "cuda-fp16":
        raise PreconditionFailed(
            "device cuda-fp16 was asked for, which engine torch does not have; ask for engine "
            "onnxruntime, or for device cuda"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise PreconditionFailed(
            "device cuda was asked for, but torch cannot use a CUDA GPU here; "
            "ask for device cpu otherwise"
        )


class TorchSession:
    """Runs a network with torch; the same results as `OnnxSession`.

    Args:
        network: Is put into eval mode, and moved if the device is not the CPU.
        channel_order: What the network wants.
        scale: What a pixel is multiplied by.
        device: Never replaced by another one.
        threads: CPU threads, which torch sets for the whole process; `cpu_threads()` when None.
        batch_images: Most images in one run; any number when None.

    Raises:
        PreconditionFailed: If the device is not there.
    """

    engine: Engine = "torch"

    def __init__(
        self,
        network: IResNet,
        channel_order: ChannelOrder,
        scale: float = 1 / 255,
        *,
        device: Device = "cpu",
        threads: int | None = None,
        batch_images: int | None = None,
    ) -> None:
        require_torch_device(device)
        torch.set_num_threads(threads or cpu_threads())
        self.device = device
        self._network = network.to(device).eval()
        self._channel_order = channel_order
        self._scale = scale
        self._batch_images = batch_images

    @property
    def embedding_size(self) -> int:
        return self._network.spec.embedding_size

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_crops(crops)
        return run_in_batches(self._run_batch, crops, self._batch_images)

    def _run_batch(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(network_input(crops, self._channel_order, self._scale))
        with torch.inference_mode():
            features = self._network(images.to(self.device))
        result: NDArray[np.float32] = features.cpu().numpy()
        return result
