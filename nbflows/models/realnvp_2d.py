"""A small Real NVP for points in the plane."""

from nbflows.bijection import Bijection
from nbflows.compose import Sequential
from nbflows.flow import Flow
from nbflows.layers import AffineCoupling, Flip
from nbflows.models.builder import builder
from nbflows.nets import MLP


@builder
def realnvp_2d(num_couplings: int = 8, hidden_features: int = 64) -> Flow:
    """Builds affine couplings with flips between them, on points ``(B, 2)``.

    Source: Dinh et al., "Density estimation using Real NVP", 2017 (arXiv:1605.08803); the sizes are ours.
    """
    layers: list[Bijection] = []
    for _ in range(num_couplings):
        layers += [AffineCoupling(MLP(1, hidden_features, 2)), Flip()]
    return Flow(Sequential(*layers), shape=(2,))
