"""Two ranks of half a batch give the loss, the gradients and the memories of one rank of all of it."""

import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gje_world.beliefs import make_head
from gje_world.objectives import make_objective

DIM, COUNT, RANKS = 4, 32, 2

CASES = {
    "gaussian_kl": ("gje_conditional", {"marginal": "gaussian_kl"}),
    "sigreg": ("gje_conditional", {"marginal": "sigreg"}),
    "variance_covariance": ("gje_conditional", {"marginal": "variance_covariance"}),
    "contrast": ("gje_conditional", {"contrast": 0.8, "resolution": 0.3}),
    "primal": ("gje_joint", {"form": "primal"}),
    "conditional": ("gje_joint", {"form": "conditional"}),
    "scale_free": ("gje_joint", {"form": "scale_free"}),
    "gmje": ("gmje", {}),
    "gmje_gng": ("gmje_gng", {"nodes": 6}),
    "gmje_smc": ("gmje_smc", {"particles": 24}),
    "no bank": ("gmje_smc", {"particles": 0}),
}


class Learner(nn.Module):
    """An encoder, a predictor and an objective."""

    def __init__(self, case):
        super().__init__()
        torch.manual_seed(0)
        name, options = CASES[case]
        self.objective = make_objective(name, DIM, **options)
        self.encoder = nn.Sequential(nn.Linear(6, DIM), nn.Tanh(), nn.Linear(DIM, DIM))
        self.head = make_head("diagonal", DIM, DIM)

    def forward(self, context, target):
        z_context, z_target = self.encoder(context), self.encoder(target)
        belief = self.head(z_context)
        loss = self.objective.predict(belief, z_target).mean()
        if self.objective.contrast:
            loss = loss + self.objective.compare(belief, z_target).mean()
        return loss + self.objective.marginal(torch.stack([z_context, z_target]))


def views():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(COUNT, 6, generator=generator)
    return x, x + 0.3 * torch.randn(COUNT, 6, generator=generator)


def learn(module, context, target):
    """Loss, gradients and buffers after the second of two passes."""
    for _ in range(2):
        module.zero_grad()
        torch.manual_seed(dist.get_rank() if dist.is_initialized() else 0)
        loss = module(context, target)
        loss.backward()
    learner = module.module if isinstance(module, DistributedDataParallel) else module
    gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, dict(learner.named_buffers())


def work(rank, store, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    share = slice(rank * COUNT // RANKS, (rank + 1) * COUNT // RANKS)
    context, target = views()
    found = {}
    for case in CASES:
        module = DistributedDataParallel(Learner(case), broadcast_buffers=False)
        loss, gradients, buffers = learn(module, context[share], target[share])
        dist.all_reduce(loss)
        found[case] = (loss / RANKS, gradients, buffers)
    torch.save(found, results / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # the group's own teardown now and then waits for ever


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank found, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    start = multiprocessing.get_context("spawn")
    processes = [
        start.Process(target=work, args=(rank, folder / "store", folder), daemon=True)
        for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_as_one(ranks, case):
    loss, gradients, buffers = learn(Learner(case), *views())
    assert gradients and all(gradient.abs().sum() > 0 for gradient in gradients.values())
    for rank in ranks:
        their_loss, their_gradients, their_buffers = rank[case]
        torch.testing.assert_close(their_loss, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(their_gradients, gradients, rtol=1e-3, atol=2e-4)
        torch.testing.assert_close(their_buffers, buffers, rtol=1e-4, atol=1e-6)
