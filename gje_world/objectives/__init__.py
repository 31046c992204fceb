"""How embeddings and beliefs are learnt: Gaussian Joint Embeddings and their relatives, one file each."""

from gje_world.objectives.consistency import Consistency
from gje_world.objectives.gje_conditional import ConditionalGJE
from gje_world.objectives.marginal import gaussian_kl, moments

OBJECTIVES = {"gje_conditional": ConditionalGJE, "consistency": Consistency}


def make_objective(name: str, **options):
    """Objective called `name`.

    An objective has `predict(belief, z_target) -> [...]`, the loss of each prediction, and
    `marginal(z) -> scalar`, the weighted term over all embeddings of the batch; `needs_density` says whether
    the belief must have a density.

    Raises:
        ValueError: `name` is not a known objective.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")
    return OBJECTIVES[name](**options)


__all__ = ["OBJECTIVES", "ConditionalGJE", "Consistency", "gaussian_kl", "make_objective", "moments"]
