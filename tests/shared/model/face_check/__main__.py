"""Trains the networks of the face check and prints its figures on held-out people and pictures.

``python -m tests.shared.model.face_check ../shared/faces PICTURES OUT``, where PICTURES is a
folder with pictures without faces. A quarter of the people and pictures, chosen by name, is held
out. It takes about half an hour on one CPU.
"""

import argparse
import sys
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cli.rendering.renderer import render_person
from shared.model.face_check import (
    CLEAR_SCORE,
    FACE_CHECK_FILE,
    GATE_FILE,
    MIN_SCORE,
    reduced,
)
from tests.shared.model.face_check.crops import CropMaker, Picture, Sources
from tests.shared.model.no_face import degraded_kinds, no_face_kinds

_TRAINING, _HELD_OUT = 210_000, 10_000
_CHUNK = 10_000
_SIDE = 28
# A crop without a face must not pass the gate; a face that does not costs only time.
_GATE_NO_FACE_WEIGHT = 5.0
_EPOCHS, _BATCH, _RATE = 14, 256, 2e-3
_PEOPLE, _FIRST_PERSON = 800, 500_000
_SMALLEST = 24
_PICTURES = (".jpg", ".jpeg", ".png")


def make_gate() -> nn.Sequential:
    """The perceptron that lets clear faces pass."""
    return nn.Sequential(nn.Linear(_SIDE**2, 64), nn.ReLU(), nn.Linear(64, 1))


def make_network() -> nn.Sequential:
    """The convolutional network that decides on all other crops."""
    return nn.Sequential(
        nn.Unflatten(1, (1, _SIDE, _SIDE)),
        nn.Conv2d(1, 12, 5, 2, 2),
        nn.ReLU(),
        nn.Conv2d(12, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(49 * 32, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )


def is_held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % 4 == 0


def read(files: Iterable[Path]) -> list[Picture]:
    pictures = (cv2.imread(str(file)) for file in files)
    return [
        one.astype(np.uint8)
        for one in pictures
        if one is not None and min(one.shape[:2]) >= _SMALLEST
    ]


def load_sources(faces: Path, pictures: Path, *, held_out: bool) -> Sources:
    def of(files: Iterable[Path], name: Callable[[Path], str]) -> list[Picture]:
        return read(file for file in sorted(files) if is_held_out(name(file)) == held_out)

    people = [n for n in range(_PEOPLE) if is_held_out(f"person {n}") == held_out]
    return Sources(
        faces=of((faces / "lfw").glob("*/*.jpg"), lambda file: file.parent.name),
        rendered=[render_person(_FIRST_PERSON + n, image) for n in people for image in range(2)],
        photographs=of((faces / "raw").glob("*.jpg"), lambda file: file.stem),
        pictures=of(
            (file for file in pictures.rglob("*") if file.suffix.lower() in _PICTURES),
            lambda file: str(file.relative_to(pictures)),
        ),
    )


def make_set(sources: Sources, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    maker = CropMaker(sources, seed)
    parts = [maker.make(min(_CHUNK, count - start)) for start in range(0, count, _CHUNK)]
    pixels = np.concatenate([reduced(crops) for crops, _ in parts])
    return torch.from_numpy(pixels), torch.from_numpy(np.concatenate([faces for _, faces in parts]))


def train(
    network: nn.Sequential, pixels: torch.Tensor, is_face: torch.Tensor, no_face_weight: float
) -> None:
    """Train a network in place.

    Args:
        network: From float32 [N, 784] to log odds [N, 1].
        pixels: float32 [N, 784].
        is_face: bool [N].
        no_face_weight: Weight of the loss of a crop without a face.
    """
    steps = _EPOCHS * -(-len(pixels) // _BATCH)
    optimizer = torch.optim.AdamW(network.train().parameters(), _RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    wanted = is_face * 0.98 + 0.01
    for epoch in range(_EPOCHS):
        for places in torch.randperm(len(pixels)).split(_BATCH):
            some, weight = pixels[places], 1 + (no_face_weight - 1) * ~is_face[places]
            mirrored = torch.rand(len(some)) < 0.5
            some[mirrored] = some[mirrored].view(-1, _SIDE, _SIDE).flip(2).flatten(1)
            optimizer.zero_grad()
            value = binary_cross_entropy_with_logits(
                network(some).squeeze(1), wanted[places], weight
            )
            value.backward()
            optimizer.step()
            schedule.step()
        sys.stderr.write(f"epoch {epoch + 1} of {_EPOCHS}: loss {value.item():.3f}\n")
    network.eval()


def share_of_faces(gate: nn.Module, network: nn.Module, crops: NDArray[np.uint8]) -> float:
    pixels = torch.from_numpy(reduced(crops))
    with torch.no_grad():
        shows = (gate(pixels) >= CLEAR_SCORE) | (network(pixels) >= MIN_SCORE)
    return float(shows.float().mean())


def write(gate: nn.Sequential, network: nn.Sequential, folder: Path) -> None:
    hidden, out = gate[0], gate[2]
    np.savez(
        folder / GATE_FILE.name,
        hidden=hidden.weight.detach().numpy().T.copy(),
        hidden_bias=hidden.bias.detach().numpy(),
        out=out.weight.detach().numpy()[0],
        out_bias=out.bias.detach().numpy(),
    )
    torch.onnx.export(
        network[1:],
        (torch.zeros(2, 1, _SIDE, _SIDE),),
        str(folder / FACE_CHECK_FILE.name),
        dynamo=False,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_axes={"pixels": {0: "crops"}, "scores": {0: "crops"}},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faces", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path, help="folder of the two files")
    arguments = parser.parse_args()
    sources = load_sources(arguments.faces, arguments.pictures, held_out=False)
    pixels, is_face = make_set(sources, _TRAINING, seed=1)
    torch.manual_seed(0)
    gate, network = make_gate(), make_network()
    train(gate, pixels, is_face, _GATE_NO_FACE_WEIGHT)
    train(network, pixels, is_face, 1.0)
    unseen = load_sources(arguments.faces, arguments.pictures, held_out=True)
    real = np.stack(unseen.faces)
    crops, shows = CropMaker(unseen, seed=2).make(_HELD_OUT)
    kinds = {"faces": real, "random faces": crops[shows], "random crops": crops[~shows]}
    kinds |= {f"faces, {name}": some for name, some in degraded_kinds(real).items()}
    for name, some in (kinds | no_face_kinds(real)).items():
        refused = 1 - share_of_faces(gate, network, some)
        sys.stdout.write(f"{name}: {refused:.2%} refused\n")
    write(gate, network, arguments.out)


if __name__ == "__main__":
    main()
