"""Any image model of timm as an encoder; needs `pip install -e '.[timm]'`."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from gje_world.networks.encoder import Features
from gje_world.options import ConfigError


class TimmEncoder(Features):
    """The model that timm knows by this name, without its classifier and with fresh weights.

    Arguments:
        model: name, as `timm.list_models()` lists it.

    Raises:
        ConfigError: timm is not installed, or knows no such model.
    """

    name = "timm"
    options: ClassVar[tuple[str, ...]] = ("model",)

    def __init__(self, channels: int, dim: int | None = None, image_size: int = 224, model: str = "resnet18"):
        try:
            import timm
        except ImportError as error:
            raise ConfigError("encoder=timm needs timm: pip install -e '.[timm]'") from error
        # the list, for a name may also be an address that timm would fetch from
        if model not in timm.list_models():
            near = ", ".join(timm.list_models(f"*{model}*")[:3]) or "timm.list_models() lists them"
            raise ConfigError(f"encoder.model={model} must be a model of timm: {near}")
        options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
        try:
            network: Any = timm.create_model(model, img_size=image_size, **options)
        except TypeError:  # a convolutional network takes images of any size
            network = timm.create_model(model, **options)
        # some have a hidden layer before their classifier, which stays
        super().__init__(
            channels, dim, image_size, getattr(network, "head_hidden_size", network.num_features)
        )
        self.model, self.network = model, network

    def features(self, images: Tensor) -> Tensor:
        return self.network(images)
