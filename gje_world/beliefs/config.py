"""What a command can be told of its belief (config group `belief`), and the check of it."""

from __future__ import annotations

from dataclasses import dataclass

from gje_world.beliefs import HEADS, make_head
from gje_world.options import ConfigError, given, option

MEMBERS = [name for name in HEADS if name not in ("point", "power_spherical", "ensemble")]


@dataclass
class BeliefConfig:
    """The predictor's belief (config group `belief`); null: its own default, where it has one."""

    name: str = option("diagonal", "set by the group, as in belief=low_rank")
    log_std_bounds: list[float] | None = option(
        None, "lowest and highest logarithm of standard deviations; null: -5, 1.5"
    )
    rank: int | None = option(None, "factors of a low_rank belief or of a mixture's components")
    components: int | None = option(None, "components of a mixture")
    df: float | None = option(None, "degrees of freedom of a student_t belief; null: learnt")
    transforms: int | None = option(None, "layers of a flow")
    members: int | None = option(None, "members of an ensemble")
    member: str | None = option(None, "belief of an ensemble's members")


def check_belief(belief: BeliefConfig, dim: int, *, directions: bool = False) -> None:
    """Refuses a belief over `dim` numbers that is unknown, or has no such options.

    Arguments:
        directions: whether it may be over unit vectors alone.

    Raises:
        ConfigError: the first option found wrong.
    """
    if belief.name not in HEADS:
        raise ConfigError(f"belief={belief.name} must be one of {', '.join(HEADS)}")
    if belief.name == "power_spherical" and not directions:
        raise ConfigError(
            "belief=power_spherical is over directions alone; embeddings of a world or of patches need "
            "belief=polar"
        )
    if belief.member is not None and belief.member not in MEMBERS:
        raise ConfigError(f"belief.member={belief.member} must be one of {', '.join(MEMBERS)}")
    if belief.log_std_bounds is not None and len(belief.log_std_bounds) != 2:
        raise ConfigError(f"belief.log_std_bounds={belief.log_std_bounds} must be two numbers, [low, high]")
    try:
        make_head(features=1, dim=dim, **given(belief))
    except ValueError as error:
        text = str(error)
        raise ConfigError(text if text.startswith("belief") else f"belief.{text}") from error
