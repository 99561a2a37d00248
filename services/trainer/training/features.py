"""Features of many crops, computed by a network in training."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from services.trainer.data.arrays import Features
from services.trainer.training.distributed import own_share, summed
from shared.errors import CorruptData
from shared.model.manifest import ChannelOrder
from shared.model.network.iresnet import IResNet
from shared.model.sessions.base import network_input

_AT_ONCE = 64
Look = Callable[[NDArray[np.uint8]], Features]


def compute_features(
    network: IResNet,
    channel_order: ChannelOrder,
    crops: NDArray[np.uint8],
    tick: Callable[[float], None] = lambda _: None,
) -> Features:
    """Run a network over crops; several processes share the work and all get the whole.

    Args:
        network: Is put into eval mode.
        channel_order: What the network wants.
        crops: uint8 [N, 112, 112, 3], BGR.
        tick: Called with the share done.

    Returns:
        float32 [N, D], not normalised.

    Raises:
        CorruptData: If a feature is no number.
    """
    network.eval()
    device = next(network.parameters()).device
    share = own_share(len(crops))
    features = np.zeros((len(crops), network.spec.embedding_size), np.float32)
    for start in range(share.start, share.stop, _AT_ONCE):
        stop = min(start + _AT_ONCE, share.stop)
        images = torch.from_numpy(network_input(crops[start:stop], channel_order))
        with torch.inference_mode():
            features[start:stop] = network(images.to(device)).cpu().numpy()
        tick((stop - share.start) / (share.stop - share.start))
    features = summed(torch.from_numpy(features)).numpy()
    if not np.isfinite(features).all():
        raise CorruptData("the network gives NaN or infinity for some faces: its weights are lost")
    return features


def features_at(look: Look, crops: NDArray[np.uint8], images: NDArray[np.int64]) -> Features:
    """Look at some of N crops only.

    Args:
        look: Gives features of crops, float32 [n, D].
        crops: uint8 [N, 112, 112, 3], BGR.
        images: int64, of any shape: places among the crops, each looked at once.

    Returns:
        float32 [N, D]: features at their places, and zeros for what was not asked for.
    """
    shown = np.unique(images)
    some = look(crops[shown])
    features = np.zeros((len(crops), some.shape[1]), np.float32)
    features[shown] = some
    return features
