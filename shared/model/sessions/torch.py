"""PyTorch sessions on a CPU or a CUDA GPU."""

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
    """Check that torch can use a device.

    Raises:
        PreconditionFailed: If the device is not available.
    """
    if device == "cuda-fp16":
        raise PreconditionFailed(
            "device cuda-fp16 was requested, which engine torch does not support; request engine "
            "onnxruntime or device cuda"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise PreconditionFailed(
            "device cuda was requested, but torch cannot use a CUDA GPU here; "
            "otherwise request device cpu"
        )


class TorchSession:
    """Runs a network with torch; the same results as `OnnxSession`.

    Args:
        network: It is set to eval mode and moved to the device.
        channel_order: Channel order that the network was trained with.
        scale: Factor for each pixel.
        device: There is no fallback to another device.
        threads: CPU threads of torch in the whole process; `cpu_threads()` when None.
        batch_images: Most images in one run; no limit when None.

    Raises:
        PreconditionFailed: If the device is not available.
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
        # With TF32 the error would exceed the tolerance of the self-check.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            features = self._network(images.to(self.device))
        result: NDArray[np.float32] = features.cpu().numpy()
        return result
