"""One training on several processes, which torchrun starts, as if it were on one.

Every process holds the whole network and deals itself the same batches, embeds its share of
a batch, and sees the features of all: the losses compare each image with every other. Alone,
outside torchrun, all functions here do nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

_T = TypeVar("_T")


@contextmanager
def together() -> Iterator[None]:
    """Be one of the processes that torchrun has started, if it has, until the end of the block."""
    if not distributed.is_torchelastic_launched():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        # NCCL carries what is on GPUs, and gloo the rest.
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(own_device())
    distributed.init_process_group(backend)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def own_rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def leads() -> bool:
    """Whether this process is the one that speaks, and keeps what comes of the training."""
    return own_rank() == 0


def own_device() -> torch.device:
    """The GPU of this process on its host, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def own_threads(threads: int) -> int:
    """This process's part of the threads of its host, at least one."""
    return max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def own_share(count: int) -> slice:
    """Which of `count` images this process embeds; shares differ by one image at most."""
    rank = own_rank()
    return slice(count * rank // processes(), count * (rank + 1) // processes())


def summed(values: Tensor) -> Tensor:
    """Add up, in place, what each process has."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def gathered(own: Tensor, count: int) -> Tensor:
    """Features of all `count` images, of which those of this process have a gradient.

    Args:
        own: [n, D], of the images of `own_share(count)`.
        count: Images of all processes.

    Returns:
        [count, D]. The gradients that the processes get from it add up to the whole one.
    """
    if not distributed.is_initialized():
        return own
    share = own_share(count)
    everyone = own.new_zeros((count, own.shape[1]))
    everyone[share] = own.detach()
    summed(everyone)
    return torch.cat([everyone[: share.start], own, everyone[share.stop :]])


def replicated(network: Module) -> Module:
    """Have every backward pass average the gradients of all processes."""
    if not distributed.is_initialized():
        return network
    # Nothing to copy before each step: BatchNorm's statistics are frozen.
    return DistributedDataParallel(network, forward_sync_buffers=False)


@contextmanager
def shared_after(replica: Module, *, last: bool) -> Iterator[None]:
    """Keep gradients to this process until the last of several backward passes."""
    if last or not isinstance(replica, DistributedDataParallel):
        yield
        return
    with replica.no_sync():
        yield


def agreed(value: _T) -> _T:
    """Give what the leading process has; what the others have is not looked at."""
    if not distributed.is_initialized():
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]
