"""Two ranks with half the batch each learn, data-parallel, what one rank learns of all of it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_methods import MOMENTUM, narrow, views
from torch.nn.parallel import DistributedDataParallel

from gje_world.methods import over_ranks

BATCH = 16
RATE = 0.05
CASES = {
    "gje": ("gje", {}),
    "gje_joint": ("gje", {"objective": {"name": "gje_joint"}}),
    "gmje_smc": ("gje", {"objective": {"name": "gmje_smc", "particles": 32}}),
    "gje of a moving average": ("gje", MOMENTUM),
    "gje with resnet": ("gje", MOMENTUM | {"encoder": "resnet18"}),
    "simclr": ("simclr", {}),
    "simclr in chunks": ("simclr", {"chunk": 5}),
    "byol": ("byol", {}),
    "byol with resnet": ("byol", {"encoder": "resnet18"}),
    "simsiam": ("simsiam", {}),
    "vicreg": ("vicreg", {}),
    "barlow_twins": ("barlow_twins", {}),
    "dino": ("dino", {}),
    "dino with resnet": ("dino", {"encoder": "resnet18"}),
    "mae": ("mae", {}),
    "masked_gje": ("masked_gje", {}),
}
RANDOM = ("mae", "masked_gje")  # each rank hides patches of its own
# Rounding, which differs between one rank and two, turns a rectifier on or off now and then.
ROUGH = {"gje with resnet", "byol with resnet", "dino with resnet"}


def learnt(case: str, part: slice) -> dict[str, torch.Tensor]:
    """Losses of two updates, gradients of the first in one vector, and what the method is after both.

    Wrapped as Fabric wraps a learner that the engine trains.
    """
    name, options = CASES[case]
    method = narrow(name, **options)
    module: torch.nn.Module = method
    if dist.is_initialized():
        over_ranks(method)
        module = DistributedDataParallel(method)
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=RATE)
    losses, gradient = [], torch.empty(0)
    for update in range(2):
        loss, _ = module([group[:, part] for group in views(BATCH)])
        optimizer.zero_grad()
        loss.backward()
        if update == 0:
            gradient = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
        optimizer.step()
        method.after_update(update)
        losses.append(loss.detach())
    losses = torch.stack(losses)
    if dist.is_initialized():
        dist.all_reduce(losses)
        losses /= dist.get_world_size()
    state = {
        name: value
        for name, value in method.state_dict().items()
        if not name.startswith("objective.")  # memories, in the order of the ranks
    }
    return {"losses": losses, "gradient": gradient, "state": state}


def normed(part: slice) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics of a batch normalisation of images."""
    generator = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(BATCH, 3, 4, 4, generator=generator) for _ in range(2))
    x = (1 + 2 * x[part]).requires_grad_()
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    if dist.is_initialized():
        over_ranks(network)
    y = network(x)
    (y * weight[part]).sum().backward()
    found = {name: p.grad for name, p in network.named_parameters()}
    for gradient in found.values():
        if dist.is_initialized():
            dist.all_reduce(gradient)
    return found | {"y": y.detach(), "x": x.grad} | dict(network.named_buffers())


def rank(number: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=number, world_size=2)
    half = BATCH // 2
    part = slice(number * half, (number + 1) * half)
    found = {case: learnt(case, part) for case in CASES} | {"norm": normed(part)}
    torch.save(found, f"{out}/{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> list[dict[str, dict]]:
    """What each of two ranks found."""
    out = Path(tmp_path_factory.mktemp("ranks"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(rank, (port, str(out)), nprocs=2)
    return [torch.load(out / f"{number}.pt") for number in range(2)]


@pytest.mark.parametrize("case", sorted(CASES.keys() - set(RANDOM)))
def test_two_ranks_learn_as_one(case, of_two):
    one = learnt(case, slice(None))
    for two in (found[case] for found in of_two):
        torch.testing.assert_close(two["losses"][0], one["losses"][0], rtol=1e-5, atol=1e-4)
        bound = 0.1 if case in ROUGH else 1e-4
        assert (two["gradient"] - one["gradient"]).norm() < bound * one["gradient"].norm()
        torch.testing.assert_close(two["losses"][1], one["losses"][1], rtol=bound, atol=1e-4)
        if case not in ROUGH:
            torch.testing.assert_close(two["state"], one["state"], rtol=1e-3, atol=1e-4)


def test_images_are_normalised_by_the_statistics_of_all_ranks(of_two):
    one, parts = normed(slice(None)), [found["norm"] for found in of_two]
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), one[name])
    for name in one.keys() - {"y", "x"}:
        for part in parts:
            torch.testing.assert_close(part[name], one[name])


@pytest.mark.parametrize("case", CASES)
def test_ranks_stay_alike(case, of_two):
    first, second = (found[case]["state"] for found in of_two)
    learns = [name for name, _ in narrow(CASES[case][0], **CASES[case][1]).named_parameters()]
    assert all(torch.equal(first[name], second[name]) for name in learns)


@pytest.mark.parametrize("case", ["byol with resnet", "dino with resnet", "gje with resnet"])
def test_global_batch_norms_are_as_those_they_replace(case):
    """A moving average that wants gradients makes data-parallel training wait for them in vain."""
    method = narrow(CASES[case][0], **CASES[case][1]).eval()
    wanted = {name: parameter.requires_grad for name, parameter in method.named_parameters()}
    over_ranks(method)
    assert {name: parameter.requires_grad for name, parameter in method.named_parameters()} == wanted
    assert not any(module.training for module in method.modules())
