"""The word that everything here speaks: a belief over an embedding."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution


class Belief(Distribution):
    """A probability distribution over embeddings, event shape `[D]`.

    Beyond what every torch distribution has, a belief can be moved and knows its own regions.
    """

    def translate(self, offset: Tensor) -> Belief:
        """The same belief moved by `offset [..., D]`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be translated")

    def coverage(self, value: Tensor) -> Tensor:
        """Probability mass of the smallest region that holds `value [..., D]`, shape `[...]`, in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} has no regions")

    def resolved_log_prob(self, value: Tensor, resolution: float) -> Tensor:
        r"""Expected log-density `[...]` of `value [..., D]` at finite resolution :math:`\tau`.

        .. math:: E_{\epsilon \sim N(0, I)} \log\, (p * N(0, \tau^2 I))(v + \tau\epsilon)

        Belief and value are both blurred by the same noise, so errors well below :math:`\tau` are neither
        rewarded nor punished, while the belief itself stays the one that is not blurred.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be blurred: set resolution=0")
