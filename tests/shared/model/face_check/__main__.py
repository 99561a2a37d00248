"""Trains the network of the face check and prints its figures on held-out people and pictures.

``python -m tests.shared.model.face_check ../shared/faces PICTURES OUT.onnx``, where PICTURES is a
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

from cli.rendering.renderer import render_person
from shared.model.face_check import MIN_SCORE, reduced
from tests.shared.model.face_check.crops import CropMaker, Picture, Sources
from tests.shared.model.no_face import degraded_kinds, no_face_kinds

_TRAINING, _HELD_OUT = 210_000, 10_000
_CHUNK = 10_000
_EPOCHS, _BATCH, _RATE = 14, 256, 2e-3
_PEOPLE, _FIRST_PERSON = 800, 500_000
_SMALLEST = 24
_PICTURES = (".jpg", ".jpeg", ".png")


class Network(nn.Module):
    """From sums of four pixels, float32 [N, 1, 28, 28], to log odds [N]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
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

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        flat = pixels.flatten(1) / 4
        flat = flat - flat.mean(1, keepdim=True)
        spread = flat.norm(dim=1, keepdim=True) / flat.shape[1] ** 0.5
        return self.layers((flat / (spread + 1)).view(-1, 1, 28, 28)).squeeze(1)


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


def train(pixels: torch.Tensor, is_face: torch.Tensor) -> Network:
    torch.manual_seed(0)
    network, loss = Network().train(), nn.BCEWithLogitsLoss()
    steps = _EPOCHS * -(-len(pixels) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    wanted = is_face * 0.98 + 0.01
    for epoch in range(_EPOCHS):
        for places in torch.randperm(len(pixels)).split(_BATCH):
            some = pixels[places]
            mirrored = torch.rand(len(some)) < 0.5
            some[mirrored] = some[mirrored].flip(3)
            optimizer.zero_grad()
            value = loss(network(some), wanted[places])
            value.backward()
            optimizer.step()
            schedule.step()
        sys.stderr.write(f"epoch {epoch + 1} of {_EPOCHS}: loss {value.item():.3f}\n")
    return network.eval()


def share_of_faces(network: Network, crops: NDArray[np.uint8]) -> float:
    with torch.no_grad():
        scores = network(torch.from_numpy(reduced(crops)))
    return float((scores >= MIN_SCORE).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faces", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    sources = load_sources(arguments.faces, arguments.pictures, held_out=False)
    network = train(*make_set(sources, _TRAINING, seed=1))
    unseen = load_sources(arguments.faces, arguments.pictures, held_out=True)
    real = np.stack(unseen.faces)
    for name, crops in {"as they are": real, **degraded_kinds(real)}.items():
        sys.stdout.write(f"| faces, {name} | {1 - share_of_faces(network, crops):.2%} refused |\n")
    for name, crops in no_face_kinds(real).items():
        sys.stdout.write(f"| {name} | {1 - share_of_faces(network, crops):.2%} refused |\n")
    crops, is_face = CropMaker(unseen, seed=2).make(_HELD_OUT)
    for name, some in (("faces", crops[is_face]), ("no faces", crops[~is_face])):
        sys.stdout.write(f"| random {name} | {1 - share_of_faces(network, some):.2%} refused |\n")
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, 28, 28),),
        str(arguments.out),
        dynamo=False,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_axes={"pixels": {0: "crops"}, "scores": {0: "crops"}},
    )


if __name__ == "__main__":
    main()
