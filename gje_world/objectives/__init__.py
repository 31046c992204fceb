"""How embeddings and beliefs are learnt: Gaussian Joint Embeddings and their relatives, one file each."""

from gje_world.objectives.consistency import Consistency
from gje_world.objectives.gje_conditional import ConditionalGJE
from gje_world.objectives.marginal import gaussian_kl, moments
from gje_world.objectives.objective import Objective

OBJECTIVES: dict[str, type[ConditionalGJE] | type[Consistency]] = {
    "gje_conditional": ConditionalGJE,
    "consistency": Consistency,
}


def make_objective(name: str, **options) -> Objective:
    """Objective called `name`, with its `options`.

    Raises:
        ValueError: `name` is not a known objective.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")
    return OBJECTIVES[name](**options)


__all__ = [
    "OBJECTIVES",
    "ConditionalGJE",
    "Consistency",
    "Objective",
    "gaussian_kl",
    "make_objective",
    "moments",
]
