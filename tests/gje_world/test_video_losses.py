"""Views that video encoders learn by."""

import torch
from torch import Generator

from gje_world.video.losses import shifted_view


def test_a_view_is_its_observation_shifted_and_noisy():
    obs = torch.randint(256, (6, 3, 16, 16), generator=Generator().manual_seed(0), dtype=torch.uint8)
    views = shifted_view(obs, 0.0, 2, Generator().manual_seed(1))
    inside = slice(2, -2)
    moved = [obs.roll((down, right), (-2, -1)) for down in range(-2, 3) for right in range(-2, 3)]
    for row, view in enumerate(views):
        assert any(torch.equal(view[:, inside, inside], other[row, :, inside, inside]) for other in moved)
    assert not torch.equal(views, obs)
    assert torch.equal(shifted_view(obs, 0.0, 0, Generator()), obs)
    grey = torch.full((50, 3, 16, 16), 128, dtype=torch.uint8)
    noise = shifted_view(grey, 10.0, 2, Generator().manual_seed(2)).float() - 128
    assert abs(float(noise.std()) - 10) < 0.3
    again = [shifted_view(obs, 10.0, 2, Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)
