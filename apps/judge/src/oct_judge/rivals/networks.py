"""Networks of MONAI and timm that start from nothing; MONAI takes 20 s to import."""

import logging
import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from oct_launch import Mistake, mistakes
from oct_vjepa.model.weights import without_numbers
from torch import nn
from torch.nn import functional

FLAT = "_2d"
NETWORKS = (
    *("monai_resnet10", "monai_resnet18", "monai_densenet121"),
    *(f"monai_resnet10{FLAT}", f"monai_resnet18{FLAT}", f"monai_densenet121{FLAT}"),
)
"""MONAI's that `compare.networks` may name; those in two dimensions are averaged over B-scans."""
TIMM = "timm_"
"""How the names of timm's begin, such as timm_resnet18; all take B-scans and are averaged."""
BASES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Channels of the first level from which a U-Net of the wanted size is made."""
LEVELS, FINEST = 4, 4  # levels at the most, and voxels of an axis below which it is not halved
DEEPEST = 32  # voxels that DenseNet121 halves five times
UNFIT = (RuntimeError, TypeError, ValueError, AssertionError)  # what timm and torch say then
GROUPS = 1  # of group norm: batches are small, instances of one voxel vary not, and classes are few


def monai(module: str) -> Any:
    """A module of MONAI.

    Raises:
        Mistake: it is not installed.
    """
    try:
        root = logging.getLogger()
        level = root.level
        found = import_module(f"monai.{module}")
        root.setLevel(level)  # importing it is no reason to hear more of others
    except ImportError as error:
        raise Mistake(
            "this candidate is a network of MONAI, which is not installed: "
            "uv pip install monai, or leave it out (segment.unet=false, compare.networks=[])"
        ) from error
    return found


def check_network(name: str, shape: Sequence[int]) -> None:
    """Refuse a network that is not there, or that takes no volumes of `shape`.

    Raises:
        Mistake: says which are there, or what the network says.
    """
    if name in NETWORKS:
        return
    if not name.startswith(TIMM):
        known = ", ".join(NETWORKS)
        raise Mistake(
            f"compare.networks ({name}) must be among {known}, or {TIMM}NAME for a model of timm"
        )
    with mistakes(*UNFIT, where=f"compare.networks ({name}): "), torch.no_grad():
        network = make_classifier(name, 1, 0, shape=shape).eval()
        network(torch.zeros(1, 1, *shape))


def make_classifier(name: str, outputs: int, seed: int, *, shape: Sequence[int]) -> nn.Module:
    """A network from scratch with so many outputs; torch's generator stays where it is.

    Of volumes of one B-scan it has two dimensions, whatever its name: of kernels three B-scans deep
    two thirds would only meet padding.

    Args:
        name: see `check_network`.
        outputs: their number.
        seed: of the weights.
        shape: (Z, Y, X) of the volumes.

    Raises:
        Mistake: no MONAI, or no timm.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module
        if name.startswith(TIMM):
            return Bscanwise(make_timm(name.removeprefix(TIMM), outputs, shape[1:]))
        nets = monai("networks.nets")
        kind = name.removeprefix("monai_").removesuffix(FLAT)
        if name.endswith(FLAT) or shape[0] == 1:
            network = Bscanwise(make_flat(nets, kind, outputs))
        elif kind == "densenet121":
            network = Enlarged(
                nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=outputs), DEEPEST
            )
        else:
            network = getattr(nets, kind)(
                spatial_dims=3,
                n_input_channels=1,
                num_classes=outputs,
                conv1_t_size=(3, 7, 7),
                conv1_t_stride=(1, 2, 2),  # windows have few B-scans
            )
    return network


def make_timm(model: str, outputs: int, size: Sequence[int]) -> nn.Module:
    """A network of timm for grey images of `size`, (Y, X), its weights drawn.

    Transformers are made for one size; networks that are not told one take any.

    Raises:
        RuntimeError, ValueError: timm's own, of a model that it lacks.
        Mistake: no timm.
    """
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise Mistake(
            "this candidate is a network of timm, which is not installed: uv pip install timm, or "
            "leave it out (compare.networks=[])"
        ) from error
    settings = {"pretrained": False, "in_chans": 1, "num_classes": outputs}
    network: nn.Module
    try:
        network = timm.create_model(model, img_size=tuple(size), **settings)
    except TypeError:
        network = timm.create_model(model, **settings)
    return network


def make_flat(nets: Any, kind: str, outputs: int) -> nn.Module:
    """The same network for single images."""
    if kind == "densenet121":
        flat = nets.DenseNet121(spatial_dims=2, in_channels=1, out_channels=outputs)
        return Enlarged(flat, DEEPEST)
    network: nn.Module = getattr(nets, kind)(
        spatial_dims=2, n_input_channels=1, num_classes=outputs
    )
    return network


class Bscanwise(nn.Module):
    """A network of single images on every B-scan; what it says is averaged.

    Args:
        network: takes (N, C, Y, X).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCZYX: torch.Tensor) -> torch.Tensor:
        """What the network says of the volume, (B, outputs)."""
        batch, bscans = x_BCZYX.shape[0], x_BCZYX.shape[2]
        said: torch.Tensor = self.network(x_BCZYX.transpose(1, 2).flatten(0, 1))
        return said.unflatten(0, (batch, bscans)).mean(dim=1)


class Enlarged(nn.Module):
    """A network that halves every axis so often that flat volumes would vanish: they are stretched.

    Args:
        network: takes what is left.
        least: voxels that every axis is brought to, where it has fewer.
    """

    def __init__(self, network: nn.Module, least: int) -> None:
        super().__init__()
        self.network, self.least = network, least

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network says of (B, C, Z, Y, X), or of (B, C, Y, X)."""
        size = [max(one, self.least) for one in x.shape[2:]]
        if size != list(x.shape[2:]):
            x = functional.interpolate(x, size, mode="nearest")
        said: torch.Tensor = self.network(x)
        return said


def make_unet(
    shape: Sequence[int], classes: int, *, parameters: int, seed: int
) -> tuple[nn.Module, int]:
    """A MONAI U-Net for volumes of `shape` of about so many parameters, and how many it has.

    Axes are halved while they have `FINEST` voxels left, so that flat volumes and single B-scans
    have a network of their shape.

    Raises:
        Mistake: no MONAI, or a shape that cannot be halved once.
    """
    unet, strides = monai("networks.nets").UNet, strides_of(shape)
    kernel = [3 if size > 1 else 1 for size in shape]

    def made(base: int) -> nn.Module:
        network: nn.Module = unet(
            spatial_dims=3,
            in_channels=1,
            out_channels=classes,
            channels=[base * 2**level for level in range(len(strides) + 1)],
            strides=strides,
            kernel_size=kernel,
            up_kernel_size=kernel,
            num_res_units=1,
            norm=("group", {"num_groups": GROUPS}),
        )
        return network

    with without_numbers():
        sizes = {base: count(made(base)) for base in BASES}
    best = min(sizes, key=lambda base: abs(math.log(sizes[base] / parameters)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return made(best), sizes[best]


def strides_of(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """How each level halves the axes.

    Raises:
        Mistake: no axis can be halved.
    """
    left, found = list(shape), []
    for _ in range(LEVELS):
        step = tuple(2 if size % 2 == 0 and size // 2 >= FINEST else 1 for size in left)
        if max(step) == 1:
            break
        found.append(step)
        left = [size // one for size, one in zip(left, step, strict=True)]
    if not found:
        raise Mistake(f"segment.unet: volumes of {tuple(shape)} voxels cannot be halved")
    return found


def count(module: nn.Module) -> int:
    """How many numbers it has."""
    return sum(weight.numel() for weight in module.parameters())
