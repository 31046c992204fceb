"""The environment that frames are rendered of."""

from __future__ import annotations

import gymnasium

from gje_world.data.image_sources import DataConfig
from gje_world.options import ConfigError


def make_env(config: DataConfig) -> gymnasium.Env:
    """The environment of `data=frames`.

    The core imports no environments; what makes them by their names for images must, inside a function.

    Raises:
        ConfigError: there is no such task, or this machine cannot render it.
    """
    import envs

    try:
        return envs.make(config.task, seed=0, frame_stack=config.frame_stack, image_size=config.image_size)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"data.task={config.task}: {error}") from error
