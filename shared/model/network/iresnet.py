"""The iResNet of the official MagFace repository (``models/iresnet.py``), with its constants.

The state_dict keys are those of the released files without their prefix, so weights can be
exchanged. InsightFace's arcface_torch has the same keys but another BatchNorm epsilon, which is
therefore part of the specification.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import mode

import torch
from torch import nn

from shared.errors import InvalidInput
from shared.model.manifest import MAGFACE_EPS

INPUT_SIZE = 112
_TAIL_SIZE = INPUT_SIZE // 16
_LAYOUTS = ((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 14, 3), (3, 13, 30, 3))
_BLOCK_KEY = re.compile(r"layer([1-4])\.(\d+)\.")

_MOMENTUM = 0.9

ARCFACE_TORCH_EPS = 1e-5

_Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class IResNetSpec:
    """Depth and widths of an iResNet.

    Attributes:
        blocks: Residual blocks in each of the four stages.
        widths: Channels of the stem and of each of the four stages.
        embedding_size: Length of the output.
        eps: Epsilon of the BatchNorms, which the weights were trained with.
    """

    blocks: tuple[int, int, int, int]
    widths: tuple[int, int, int, int, int] = (64, 64, 128, 256, 512)
    embedding_size: int = 512
    eps: float = MAGFACE_EPS

    @property
    def name(self) -> str:
        """Name such as ``iresnet100``; with a stem width other than 64 ``iresnet18w16``."""
        width = "" if self.widths[0] == 64 else f"w{self.widths[0]}"
        return f"iresnet{2 * sum(self.blocks) + 2}{width}"


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int, norm: _Norm) -> None:
        super().__init__()
        self.bn1 = norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, 1, 1, bias=False)
        self.bn2 = norm(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = norm(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), norm(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out = self.bn3(self.conv2(out))
        return torch.add(out, identity)


def _stage(width_in: int, width: int, blocks: int, norm: _Norm) -> nn.Sequential:
    rest = (_Block(width, width, 1, norm) for _ in range(1, blocks))
    return nn.Sequential(_Block(width_in, width, 2, norm), *rest)


class IResNet(nn.Module):
    """Network from faces to features: the direction is the embedding, the norm the magnitude.

    Args:
        spec: Depth and widths.
    """

    def __init__(self, spec: IResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        stem, *_, last = spec.widths
        norm = partial(nn.BatchNorm2d, eps=spec.eps, momentum=_MOMENTUM)
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = norm(stem)
        self.prelu = nn.PReLU(stem)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(width_in, width, blocks, norm)
            for (width_in, width), blocks in zip(pairwise(spec.widths), spec.blocks, strict=True)
        )
        self.bn2 = norm(last)
        self.dropout = nn.Dropout(p=0.4)
        self.fc = nn.Linear(last * _TAIL_SIZE**2, spec.embedding_size)
        self.features = nn.BatchNorm1d(spec.embedding_size, spec.eps, _MOMENTUM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute features.

        Args:
            x: float32 [N, 3, 112, 112], scaled, in the channel order of the weights.

        Returns:
            float32 [N, embedding_size], not normalized.
        """
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(self.bn2(x))
        features: torch.Tensor = self.features(self.fc(torch.flatten(x, 1)))
        return features


def _layout(found: tuple[int, ...]) -> tuple[int, int, int, int]:
    # The smallest official depth with enough blocks, so that missing last blocks are reported.
    for layout in _LAYOUTS:
        if all(have <= want for have, want in zip(found, layout, strict=True)):
            return layout
    known = ", ".join(f"iResNet-{2 * sum(layout) + 2} {layout}" for layout in _LAYOUTS)
    raise InvalidInput("checkpoint", f"has {found} blocks per stage; supported are {known}")


def _width(shapes: Mapping[str, tuple[int, ...]], keys: Iterable[str], part: str) -> int:
    # The most frequent width, so that a single wrong shape is reported as an error.
    sizes = [shapes[key][0] for key in keys if shapes.get(key)]
    if not sizes:
        raise InvalidInput("checkpoint", f"has no tensor of the iResNet's {part}")
    return mode(sizes)


def spec_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], eps: float = MAGFACE_EPS
) -> IResNetSpec:
    """Derive depth, widths and embedding size from the shapes of a state_dict without prefix.

    Args:
        shapes: Shape by key; some keys may be missing or have a wrong shape.
        eps: Epsilon of the BatchNorms, which no shape tells.

    Raises:
        InvalidInput: If a whole part of the network is missing, or the depth is not supported.
    """
    found = [0, 0, 0, 0]
    stage_keys: list[list[str]] = [[], [], [], []]
    for key in shapes:
        if match := _BLOCK_KEY.match(key):
            stage = int(match[1]) - 1
            found[stage] = max(found[stage], int(match[2]) + 1)
            if not key.startswith(".bn1", match.end() - 1):
                stage_keys[stage].append(key)
    stem_keys = ("conv1.weight", "prelu.weight", "bn1.weight", "bn1.bias", "bn1.running_mean")
    tail_keys = ("fc.weight", "fc.bias", "features.weight", "features.bias")
    stem = _width(shapes, stem_keys, "stem")
    one, two, three, four = (
        _width(shapes, keys, f"layer{number}") for number, keys in enumerate(stage_keys, 1)
    )
    return IResNetSpec(
        blocks=_layout(tuple(found)),
        widths=(stem, one, two, three, four),
        embedding_size=_width(shapes, tail_keys, "embedding layer"),
        eps=eps,
    )
