"""The moving average of weights, compared with its formula, and the interpolation."""

import pytest
import torch

from services.trainer.training.weight_averaging import MovingAverage, interpolate
from shared.model.network.iresnet import IResNet, IResNetSpec


def weights(network: IResNet) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in network.parameters()]).double()


def network_of(seed: int) -> IResNet:
    torch.manual_seed(seed)
    return IResNet(IResNetSpec((1,) * 4, widths=(4, 4, 4, 8, 8), embedding_size=16))


def networks(steps: int) -> list[IResNet]:
    """Return a network at the start and after each of some steps."""
    return [network_of(seed) for seed in range(steps + 1)]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.98])
def test_the_average_is_exponential_with_a_warm_up_and_starts_at_the_network(decay: float) -> None:
    start, *later = networks(30)
    average, want = MovingAverage(start, decay), weights(start)
    for step, network in enumerate(later, 1):
        average.update(network)
        rate = min(decay, step / (step + 9))
        want = rate * want + (1 - rate) * weights(network)
        torch.testing.assert_close(weights(average.network), want, rtol=1e-5, atol=1e-7)


def test_a_restored_average_goes_on_as_an_undisturbed_one() -> None:
    start, *later = networks(6)
    undisturbed, before = MovingAverage(start, 0.98), MovingAverage(start, 0.98)
    for network in later[:3]:
        undisturbed.update(network)
        before.update(network)
    state = before.state_dict()
    assert state["steps"] == 3
    restored = MovingAverage(network_of(seed=99), 0.98)
    restored.load_state_dict(state)
    for network in later[3:]:
        undisturbed.update(network)
        restored.update(network)
    assert torch.equal(weights(restored.network), weights(undisturbed.network))


def test_the_average_is_not_networks() -> None:
    network = network_of(seed=0)
    average = MovingAverage(network, 0.5).network
    assert not average.training
    assert not any(each.requires_grad for each in average.parameters())
    assert all(each.requires_grad for each in network.parameters())


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_interpolation_goes_a_share_of_the_way_to_the_parent(share: float) -> None:
    network, parent = network_of(seed=1), network_of(seed=2)
    want = (1 - share) * weights(network) + share * weights(parent)
    interpolate(network, parent, share)
    torch.testing.assert_close(weights(network), want, rtol=1e-5, atol=1e-7)
