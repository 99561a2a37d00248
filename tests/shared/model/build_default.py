"""Builds the bundled network from an official checkpoint, with the figures of its README.

``python -m tests.shared.model.build_default ../shared/checkpoints/magface_iresnet18w16.pth
../shared/faces/lfw``
"""

import argparse
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from shared.evaluation.calibration import best_accuracy_threshold
from shared.evaluation.metrics import confusion, roc, tar_at_far
from shared.evaluation.scores import Scores, pair_similarity
from shared.model.default import CALIBRATION_FILE, DEFAULT_CHECKPOINT, DefaultCalibration
from shared.model.manifest import ChannelOrder, quantiles_of
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.base import split_features
from shared.model.sessions.torch import TorchSession

IMPOSTOR_PAIRS = 20_000
PAIRS_PER_PERSON = 10


def read_faces(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    files = sorted(folder.glob("*/*.jpg"))
    people = np.unique([file.parent.name for file in files], return_inverse=True)[1]
    return np.stack([np.asarray(cv2.imread(str(file)), np.uint8) for file in files]), people


def features(
    checkpoint: Path, order: ChannelOrder, crops: NDArray[np.uint8]
) -> NDArray[np.float32]:
    session = TorchSession(load_checkpoint(checkpoint).network, order)
    return np.concatenate([session.run(crops[i : i + 64]) for i in range(0, len(crops), 64)])


def choose_pairs(people: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """At most ten genuine pairs a person, so that nobody dominates; random impostors."""
    rng = np.random.default_rng(0)
    genuine: list[tuple[int, int]] = []
    for person in range(int(people.max()) + 1):
        own = list(combinations(np.flatnonzero(people == person).tolist(), 2))
        genuine += [own[i] for i in rng.permutation(len(own))[:PAIRS_PER_PERSON]]
    drawn = rng.integers(0, len(people), (2 * IMPOSTOR_PAIRS, 2))
    impostor = drawn[people[drawn[:, 0]] != people[drawn[:, 1]]][:IMPOSTOR_PAIRS]
    pairs = np.concatenate([np.array(genuine), impostor[: len(genuine)]]).astype(np.int32)
    return pairs, np.arange(len(pairs)) < len(genuine)


def measure(raw: NDArray[np.float32], people: NDArray[np.int64]) -> tuple[float, dict[str, float]]:
    embeddings, magnitudes = split_features(raw)
    pairs, genuine = choose_pairs(people)
    scores = Scores(pair_similarity(embeddings, pairs), genuine)
    threshold = round(best_accuracy_threshold(scores), 3)
    return threshold, {
        "pairs": len(pairs),
        "threshold": threshold,
        "accuracy": confusion(scores, threshold).accuracy,
        "accuracy_at_0_4": confusion(scores, 0.4).accuracy,
        "auc": roc(scores).auc,
        "tar_at_far_1e-2": tar_at_far(scores, 1e-2).tar,
        "magnitude_mean": float(magnitudes.mean()),
        "magnitude_std": float(magnitudes.std()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("faces", type=Path)
    arguments = parser.parse_args()
    state = load_checkpoint(arguments.checkpoint).network.state_dict()
    half = {key: t.to(torch.float16) if t.is_floating_point() else t for key, t in state.items()}
    save_file(half, DEFAULT_CHECKPOINT)
    DEFAULT_CHECKPOINT.chmod(0o644)

    crops, people = read_faces(arguments.faces)
    full, kept = (
        split_features(features(file, "bgr", crops))[0].astype(np.float64)
        for file in (arguments.checkpoint, DEFAULT_CHECKPOINT)
    )
    raw = features(DEFAULT_CHECKPOINT, "bgr", crops)
    threshold, figures = measure(raw, people)
    figures["rgb_accuracy"] = measure(features(DEFAULT_CHECKPOINT, "rgb", crops), people)[1][
        "accuracy"
    ]
    figures["fp16_cosine_min"] = float((full * kept).sum(axis=1).min())
    quantiles = quantiles_of(split_features(raw)[1])
    calibration = DefaultCalibration(
        channel_order="bgr",
        threshold=threshold,
        magnitude_quantiles=tuple(round(quantile, 3) for quantile in quantiles),
    )
    CALIBRATION_FILE.write_text(calibration.model_dump_json(indent=1) + "\n")
    for name, value in {"images": len(crops), "people": int(people.max()) + 1, **figures}.items():
        print(f"{name:20} {value:.6g}")  # noqa: T201


if __name__ == "__main__":
    main()
