"""Two ranks with half the batch each have the loss and the gradients of one rank with all of it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_methods import narrow, views

from gje_world.methods import over_ranks

BATCH = 16
METHODS = {
    "gje": {},
    "gje_joint": {"objective": {"name": "gje_joint"}},
    "gmje_smc": {"objective": {"name": "gmje_smc", "particles": 32}},
    "simclr": {},
    "byol": {},
    "simsiam": {},
    "vicreg": {},
    "barlow_twins": {},
    "dino": {},
}


def learnt(name: str, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and gradients in one vector, averaged over the ranks as data-parallel training does."""
    method = narrow("gje" if name.startswith(("gje", "gmje")) else name, **METHODS[name])
    over_ranks(method)
    loss, _ = method([group[:, part] for group in views(BATCH)])
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    found = torch.cat([loss.detach().view(1), gradient])
    if dist.is_initialized():
        dist.all_reduce(found)
        found /= dist.get_world_size()
    return found[0], found[1:]


def rank(number: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=number, world_size=2)
    half = BATCH // 2
    found = {name: learnt(name, slice(number * half, (number + 1) * half)) for name in METHODS}
    if number == 0:
        torch.save(found, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    out = Path(tmp_path_factory.mktemp("ranks")) / "found.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(rank, (port, str(out)), nprocs=2)
    return torch.load(out)


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_learn_as_one(name, of_two):
    loss, gradient = learnt(name, slice(None))
    torch.testing.assert_close(of_two[name][0], loss, rtol=1e-5, atol=1e-5)
    assert (of_two[name][1] - gradient).norm() < 1e-4 * gradient.norm()
