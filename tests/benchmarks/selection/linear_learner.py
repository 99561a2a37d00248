"""Linear map behind the frozen network: a fast learner to compare many choices of pairs.

It replaces the training where that takes too long. Its gain is smaller than that of the training;
only the order of the strategies is comparable. Every row names its learner.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from tests.benchmarks.learning.faces import PairRows

_STEPS: Final = 150
_LEARNING_RATE: Final = 1e-3
# Weight of the distance to the identity: there are few labels and many parameters.
_REGULARIZATION: Final = 30.0
_SHARPNESS: Final = 10.0

Floats = NDArray[np.float32]


def learn_map(features: Floats, pairs: PairRows) -> Floats:
    """Fit a map that separates genuine from impostor pairs by their cosine.

    Args:
        features: float32 [N, D], of the pool's images.
        pairs: Labelled pairs of the images. Both classes have the same weight.

    Returns:
        float32 [D, D]; the identity if a class has no pairs.
    """
    size = features.shape[1]
    if pairs.same.all() or not pairs.same.any():
        return np.eye(size, dtype=np.float32)
    images, places = np.unique(pairs.rows, return_inverse=True)
    embeddings = normalize(torch.from_numpy(features[images]))
    left, right = torch.from_numpy(places.reshape(-1, 2)).T
    same = torch.from_numpy(pairs.same).float()
    weight = torch.where(same > 0, 0.5 / same.sum(), 0.5 / (1 - same).sum())
    identity = torch.eye(size)
    learned = torch.nn.Parameter(identity.clone())
    threshold = torch.nn.Parameter((embeddings[left] * embeddings[right]).sum(1).median())
    optimizer = torch.optim.Adam([learned, threshold], lr=_LEARNING_RATE)
    for _ in range(_STEPS):
        mapped = normalize(embeddings @ learned.T)
        cosine = (mapped[left] * mapped[right]).sum(1)
        odds = _SHARPNESS * (cosine - threshold)
        loss = binary_cross_entropy_with_logits(odds, same, weight=weight, reduction="sum")
        loss = loss + _REGULARIZATION * ((learned - identity) ** 2).sum() / size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return learned.detach().numpy()
