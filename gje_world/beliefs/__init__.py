"""What is predicted: probability distributions over embeddings, and the heads that make them."""

from torch import nn

from gje_world.beliefs.belief import Belief
from gje_world.beliefs.diagonal import DiagonalGaussian, DiagonalHead
from gje_world.beliefs.point import Point, PointHead

HEADS: dict[str, type[nn.Module]] = {"diagonal": DiagonalHead, "point": PointHead}


def make_head(name: str, features: int, dim: int, **options) -> nn.Module:
    """Head of the belief called `name`: a module from features `[..., F]` to a belief over `[..., D]`.

    Raises:
        ValueError: `name` is not a known belief.
    """
    if name not in HEADS:
        raise ValueError(f"belief must be one of {', '.join(HEADS)}; got {name!r}")
    return HEADS[name](features, dim, **options)


__all__ = ["HEADS", "Belief", "DiagonalGaussian", "DiagonalHead", "Point", "PointHead", "make_head"]
