"""What a command can be told of its encoder (config group `encoder`), and the check of it."""

from __future__ import annotations

from dataclasses import dataclass

from gje_world.networks import ENCODERS, Encoder, make_encoder
from gje_world.options import ConfigError, given, option, require_at_least


@dataclass
class EncoderConfig:
    """The encoder; null: its own default, where it has one."""

    name: str = option("conv", "set by the group: encoder=conv")
    dim: int | None = option(128, "embedding dimension D; null: as many as the network has features")
    width: int | None = option(None, "of conv, keypoints and resnets: channels of the first convolutions")
    hidden: int | None = option(None, "of keypoints: width of a perceptron of the places; null: none")
    patch: int | None = option(None, "of ViTs: pixels of a patch's side; null: an eighth of the image's")
    depth: int | None = option(None, "of ViTs: layers")
    model: str | None = option(None, "of timm: name of the model")


def build_encoder(config: EncoderConfig, channels: int, image_size: int) -> Encoder:
    """The encoder that `config` tells of, for images `[..., channels, image_size, image_size]`.

    Raises:
        ConfigError: there is no such encoder, or it has no such options or size.
    """
    if config.name not in ENCODERS:
        raise ConfigError(f"encoder={config.name} must be one of {', '.join(ENCODERS)}")
    options = given(config)
    name, dim = options.pop("name"), options.pop("dim", None)
    require_at_least(1, config, "dim", "width", "hidden", "patch", "depth", prefix="encoder.")
    try:
        return make_encoder(name, channels, dim, image_size, **options)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"encoder={name}: {error}") from error
