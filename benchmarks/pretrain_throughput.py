"""Images a second of SimCLR with ResNet-18, against lightly's modules, in one run.

Each contender learns from random images, drawn anew for each update, at the same batch size, in a process of
its own, in turn:

- `ours`: what `gje-pretrain method=simclr encoder=resnet18` does in an update;
- `lightly, same views`: lightly's projection head and loss on torchvision's ResNet-18 with a stem for small
  images, on views drawn as ours are, in the same precision and with the same allocator;
- `lightly`: the same on views drawn by lightly's own transform, image by image, in float32 and with the
  default allocator, as its examples do.

    python benchmarks/pretrain_throughput.py --csv results/pretrain_throughput.csv
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch
from measure import medians, parser, write_csv
from torch import Tensor, nn
from torchvision_anyhow import import_torchvision

from gje_world.data.views import AugmentConfig, Views
from gje_world.methods.simclr import SimCLR
from gje_world.networks import make_encoder
from gje_world.training.devices import autocast_dtype, choose_device, keep_freed_memory, set_threads

SIZE = 32


def images(batch: int) -> Tensor:
    return torch.randint(256, (batch, 3, SIZE, SIZE), dtype=torch.uint8)


def precision_of(contender: str) -> torch.dtype:
    """What a contender computes in."""
    return autocast_dtype(choose_device("auto"), "float32" if contender == "lightly" else "auto")


def now(device: torch.device) -> float:
    """Seconds, once the work given to `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def speed(model: nn.Module, views, loss, batch: int, updates: int, dtype: torch.dtype) -> float:
    """Images a second of `updates` gradient steps after one that is not timed."""
    device = choose_device("auto")
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    started = 0.0
    for update in range(updates + 1):
        if update == 1:
            started = now(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            value = loss(model, views(images(batch).to(device)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return batch * updates / (now(device) - started)


def ours(batch: int, updates: int, threads: int) -> float:
    set_threads(threads)
    keep_freed_memory()
    method = SimCLR(make_encoder("resnet18", 3, None, SIZE), updates=updates)
    dtype = precision_of("ours")
    return speed(method, Views(AugmentConfig(), 2, SIZE), lambda m, v: m(v)[0], batch, updates, dtype)


def lightlys(contender: str, batch: int, updates: int, threads: int) -> float:
    own_views = contender == "lightly"
    set_threads(threads)
    if not own_views:
        keep_freed_memory()
    torchvision = import_torchvision()
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    backbone = torchvision.models.resnet18()
    backbone.conv1, backbone.maxpool, backbone.fc = (
        nn.Conv2d(3, 64, 3, 1, 1, bias=False),
        nn.Identity(),
        nn.Identity(),
    )
    model = nn.Sequential(backbone, SimCLRProjectionHead(512, 2048, 128))
    criterion = NTXentLoss(0.5)
    ours_drawn = Views(AugmentConfig(), 2, SIZE)
    transform = SimCLRTransform(input_size=SIZE, gaussian_blur=0.0)
    to_picture = torchvision.transforms.ToPILImage()

    def drawn(batch_of: Tensor) -> Tensor:
        if not own_views:
            return ours_drawn(batch_of)[0] / 255
        pairs = [transform(to_picture(image)) for image in batch_of.cpu()]
        return torch.stack([torch.stack(side) for side in zip(*pairs, strict=True)]).to(batch_of.device)

    def loss(network: nn.Module, views: Tensor) -> Tensor:
        return criterion(network(views[0]), network(views[1]))

    return speed(model, drawn, loss, batch, updates, precision_of(contender))


def main(asked: Sequence[str] | None = None) -> None:
    """Measure, print the ratios, and write them where asked."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--updates", type=int, default=3, help="timed in each round")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args(asked)
    kinds = {
        "ours": ours,
        **{name: partial(lightlys, name) for name in ("lightly, same views", "lightly")},
    }
    size = (arguments.batch, arguments.updates, arguments.threads)
    found = medians(kinds, *size, rounds=arguments.rounds)
    rows: list[dict[str, object]] = [
        {
            "contender": name,
            "images_per_second": round(value, 2),
            "ours_is_faster_by": round(found["ours"] / value, 3),
            "batch": arguments.batch,
            "threads": arguments.threads,
            "precision": str(precision_of(name)).removeprefix("torch."),
        }
        for name, value in found.items()
    ]
    for row in rows:
        print(
            f"{row['contender']:<22} {row['images_per_second']:>8} images/s  {row['ours_is_faster_by']:>6}x"
        )
    if arguments.csv is not None:
        write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
