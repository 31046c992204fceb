"""Views that video encoders learn by."""

from itertools import product

import torch
from torch import Generator

from gje_world.video.losses import shifted_view


def test_a_view_is_its_observation_shifted_and_noisy():
    obs = torch.randint(256, (6, 3, 16, 16), generator=Generator().manual_seed(0), dtype=torch.uint8)
    views = shifted_view(obs, 0.0, 2, Generator().manual_seed(1))
    inside = slice(2, -2)
    offsets = []
    for row, view in enumerate(views):
        for offset in product(range(-2, 3), repeat=2):
            if torch.equal(view[:, inside, inside], obs[row].roll(offset, (-2, -1))[:, inside, inside]):
                offsets.append(offset)
    assert len(offsets) == len(obs) and len(set(offsets)) > 3  # each on its own
    assert min(min(offset) for offset in offsets) < 0 < max(max(offset) for offset in offsets)
    assert not torch.equal(views, obs)
    assert torch.equal(shifted_view(obs, 0.0, 0, Generator()), obs)
    grey = torch.full((50, 3, 16, 16), 128, dtype=torch.uint8)
    noise = shifted_view(grey, 10.0, 2, Generator().manual_seed(2)).float() - 128
    assert abs(float(noise.std()) - 10) < 0.3
    again = [shifted_view(obs, 10.0, 2, Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)
