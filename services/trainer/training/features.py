"""Feature extraction: features of many crops under a network in training."""

from collections.abc import Callable

import numpy as np
import torch

from services.trainer.data.arrays import CropArray, FeatureArray, IndexArray
from services.trainer.training.distributed import all_reduce_sum, shard
from shared.errors import CorruptData
from shared.model.manifest import ChannelOrder
from shared.model.network.iresnet import IResNet
from shared.model.sessions.base import network_input

_BATCH_SIZE = 64
# From crops, uint8 [n, 112, 112, 3], to features, float32 [n, D], not normalised.
FeatureExtractor = Callable[[CropArray], FeatureArray]


def compute_features(
    network: IResNet,
    channel_order: ChannelOrder,
    crops: CropArray,
    tick: Callable[[float], None] = lambda _: None,
) -> FeatureArray:
    """Compute features; several processes share the work, and each returns all features.

    Args:
        network: The network; is put into eval mode.
        channel_order: Channel order of the network's input.
        crops: uint8 [N, 112, 112, 3], BGR.
        tick: Called with the share done, 0..1.

    Returns:
        float32 [N, D], not normalised.

    Raises:
        CorruptData: If a feature is NaN or infinite.
    """
    network.eval()
    device = next(network.parameters()).device
    own = shard(len(crops))
    features = np.zeros((len(crops), network.spec.embedding_size), np.float32)
    for start in range(own.start, own.stop, _BATCH_SIZE):
        stop = min(start + _BATCH_SIZE, own.stop)
        images = torch.from_numpy(network_input(crops[start:stop], channel_order))
        with torch.inference_mode():
            features[start:stop] = network(images.to(device)).cpu().numpy()
        tick((stop - own.start) / (own.stop - own.start))
    features = all_reduce_sum(torch.from_numpy(features)).numpy()
    if not np.isfinite(features).all():
        raise CorruptData("the network outputs NaN or infinity for some faces")
    return features


def features_at(extract: FeatureExtractor, crops: CropArray, images: IndexArray) -> FeatureArray:
    """Compute the features of some of N crops.

    Args:
        extract: Computes the features.
        crops: uint8 [N, 112, 112, 3], BGR.
        images: int64, any shape: positions of the crops; each is computed once.

    Returns:
        float32 [N, D]; zeros for the other crops.
    """
    distinct = np.unique(images)
    computed = extract(crops[distinct])
    features = np.zeros((len(crops), computed.shape[1]), np.float32)
    features[distinct] = computed
    return features
