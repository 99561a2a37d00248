"""Distributed training: one training on the processes that torchrun starts.

Every process holds the whole network and makes the same batches. It embeds its shard of a batch
and then gets the features of all shards, because the losses compare every image with every other.
In a single process outside torchrun the functions here do nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

_T = TypeVar("_T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the default process group of torchrun's processes for the duration of the block."""
    if not distributed.is_torchelastic_launched():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        # NCCL for tensors on GPUs, gloo for the others.
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local_device())
    distributed.init_process_group(backend)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Number of processes of the training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_rank0() -> bool:
    """Tell whether this process sends messages and stores the results."""
    return rank() == 0


def local_device() -> torch.device:
    """Return the GPU of this process on its host, or the CPU if the host has no GPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", distributed.get_node_local_rank(fallback_rank=0))
    return torch.device("cpu")


def threads_per_process(threads: int) -> int:
    """Divide the threads of the host among the processes, which are all on it; at least 1."""
    return max(1, threads // world_size())


def shard(count: int) -> slice:
    """Return which of `count` images this process embeds; shards differ by at most one image."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum the tensors of all processes in place."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def all_gather_features(own: Tensor, count: int) -> Tensor:
    """Return the features of all `count` images; only those of this process have a gradient.

    Args:
        own: [n, D], features of the images of `shard(count)`.
        count: Number of images on all processes.

    Returns:
        [count, D]. The gradients that the processes compute from it sum to the whole gradient.
    """
    if not distributed.is_initialized():
        return own
    own_rows = shard(count)
    features = own.new_zeros((count, own.shape[1]))
    features[own_rows] = own.detach()
    all_reduce_sum(features)
    return torch.cat([features[: own_rows.start], own, features[own_rows.stop :]])


def wrap_ddp(network: Module) -> Module:
    """Wrap the network so that every backward pass averages the gradients of all processes."""
    if not distributed.is_initialized():
        return network
    # The buffers are BatchNorm's statistics, which are frozen: there is nothing to synchronise.
    return DistributedDataParallel(network, forward_sync_buffers=False)


@contextmanager
def gradient_sync(wrapped: Module, *, enabled: bool) -> Iterator[None]:
    """Average gradients in this block's backward passes only if enabled.

    Without it they accumulate in this process until a backward pass with it.

    Args:
        wrapped: From `wrap_ddp`.
        enabled: True for the last of several backward passes of a step.
    """
    if enabled or not isinstance(wrapped, DistributedDataParallel):
        yield
        return
    with wrapped.no_sync():
        yield


def broadcast(value: _T) -> _T:
    """Return the value of rank 0; the values of the other processes are ignored."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]
