"""What learns: encoders, perceptrons, normalisation."""

from gje_world.networks.conv import ConvEncoder
from gje_world.networks.mlp import EnsembleMLP, NormedLinear, mlp, simplicial

__all__ = ["ConvEncoder", "EnsembleMLP", "NormedLinear", "mlp", "simplicial"]
