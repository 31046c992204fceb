"""How alike are decoded futures and what was seen? PSNR and SSIM of the mean, of samples, of the best one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


class Gallery(NamedTuple):
    """Pictures uint8 of a few held-out clips."""

    past: Tensor  # [N, T, C, h, w]
    truth: Tensor  # [N, H, C, h, w]
    mean: Tensor  # [N, H, C, h, w]: decoded from the mean of the beliefs
    samples: Tensor  # [S, N, H, C, h, w]: decoded from sampled futures
    directions: Tensor  # [N, E, 3, C, h, w]: mean minus, plus nothing, plus two std along leading directions
    heat: Tensor  # [M, h, w]: by how much the next belief's entropy grows where the last frame is hidden


def gallery_scores(gallery: Gallery) -> dict[str, Tensor]:
    """PSNR and SSIM of the pictures at each step ahead, by name."""
    truth, mean, samples = (part.movedim(-4, 0) for part in (gallery.truth, gallery.mean, gallery.samples))
    return {f"pictures/{name}": score for name, score in picture_scores(mean, samples, truth).items()}


@torch.no_grad()
def picture_scores(mean: Tensor, samples: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """PSNR (dB) and SSIM at each of `H` steps ahead, `[H]`: of the mean, of `S` samples on average, and of
    the best of them.

    The best is one sampled future of each clip, that of the highest mean score over the steps.

    Arguments:
        mean: uint8 `[H, N, C, h, w]`.
        samples: uint8 `[H, S, N, C, h, w]`.
        truth: uint8 `[H, N, C, h, w]`.
    """
    found = {}
    for name, score in (("psnr", psnr), ("ssim", ssim)):
        found[name] = torch.stack([score(a, b).mean() for a, b in zip(mean, truth, strict=True)])
        of_each = torch.stack(
            [torch.stack([score(s, b) for s in drawn]) for drawn, b in zip(samples, truth, strict=True)]
        )  # [H, S, N]
        found[f"sample_{name}"] = of_each.mean((1, 2))
        best = of_each.mean(0).argmax(0)
        found[f"best_{name}"] = of_each[:, best, torch.arange(len(best))].mean(1)
    return found


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels of uint8 `[N, C, h, w]`, `[N]`."""
    return peak_signal_noise_ratio(
        pictures.float(), truth.float(), data_range=255.0, dim=(1, 2, 3), reduction="none"
    )


def ssim(pictures: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of uint8 `[N, C, h, w]`, `[N]`."""
    found = structural_similarity_index_measure(
        pictures.float(), truth.float(), data_range=255.0, reduction="none"
    )
    assert isinstance(found, Tensor)
    return found
