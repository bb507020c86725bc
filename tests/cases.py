"""One small example of every public bijection: (bijection, x, context). All property tests run over it."""

import torch

from nbflows import Identity, Inverse, Multiscale, Sequential, WithContext
from nbflows.layers import (
    ActNorm,
    Affine,
    AffineCoupling,
    AffineInjector,
    ArctanScale,
    CoarseToFine,
    Conv1x1,
    ConvLSTMPrior,
    ExactLogDet,
    Flatten,
    Flip,
    GaussianPrior,
    LearnedTanh,
    LogisticMixture,
    Logit,
    MaskedAutoregressive,
    MixtureCoupling,
    PatchAutoregressive,
    Patches,
    Permute,
    ResidualBlock,
    ScaledTanh,
    SigmoidScale,
    Spline,
    SplineCoupling,
    Squeeze,
    checkerboard,
)
from nbflows.nets import (
    MADE,
    MLP,
    ActNormConvNet,
    CausalSequenceNet,
    ConvLSTM,
    ConvNet,
    GatedAttentionNet,
    GatedConvNet,
    LipschitzConvNet,
    LipschitzMLP,
    PickLevels,
    ZeroConv,
    update_norms,
)


def _coupling(net, **options):
    return AffineCoupling(net, **options)


def _patches(context_features=0, **options):
    net = CausalSequenceNet(5, 2, 4, width=8, num_layers=2, num_heads=2, context_features=context_features)
    torch.nn.init.normal_(net.out.weight, std=0.3)
    return PatchAutoregressive(net, **options)


def _level(channels):
    return Sequential(
        Squeeze(),
        _coupling(ConvNet(2 * channels, 6, 4 * channels), keep="first"),
        _coupling(ConvNet(2 * channels, 6, 4 * channels), keep="second"),
    )


class _ChannelMixer(torch.nn.Module):
    """A prior's network: takes its context alone, to test that the right context arrives."""

    def __init__(self, channels):
        super().__init__()
        self.net = ConvNet(channels, 4, channels)

    def forward(self, context):
        return self.net(context)


def _context_prior(channels):
    coupling = _coupling(ConvNet(channels // 2, 4, channels, context_channels=channels))
    return WithContext(coupling, _ChannelMixer(channels))


def _coarse_to_fine():
    """Three levels of odd numbers of channels. The finest sees all coarser ones of both latents, the others less."""
    shapes, context_shapes = [(2, 4, 4), (3, 2, 2), (4, 2, 2)], [(1, 4, 4), (2, 2, 2), (1, 2, 2)]
    finest = Multiscale(
        [
            WithContext(_level(2), PickLevels([*context_shapes, *shapes[1:]], [0])),
            WithContext(AffineInjector(ConvNet(3 + 2, 4, 8)), PickLevels([*context_shapes, *shapes[1:]], [3, 1])),
        ],
        (2, 4, 4),
        keep="second",
    )
    middle = WithContext(
        GaussianPrior(ConvNet(4 + 2 + 1, 4, 6)), PickLevels([*context_shapes[1:], shapes[2]], [2, 0, 1])
    )
    coarsest = WithContext(AffineInjector(ConvNet(1, 4, 8)), PickLevels(context_shapes[2:], [0]))
    return CoarseToFine([finest, middle, coarsest], shapes, context_shapes)


def _initialized(layer, *shape):
    """Has seen data: its ActNorms are set."""
    layer(3 + 2 * torch.randn(shape))
    return layer


CASES = {
    "identity": lambda: (Identity(), torch.randn(3, 2, 4, 4), None),
    "sequential": lambda: (Sequential(Flip(), _coupling(ConvNet(2, 4, 4))), torch.randn(3, 4, 4, 2), None),
    "sequential of nothing": lambda: (Sequential(), torch.randn(3, 2), None),
    "inverse": lambda: (Inverse(_coupling(MLP(2, 8, 4))), torch.randn(5, 4), None),
    "with context": lambda: (
        WithContext(_coupling(ConvNet(1, 4, 2, context_channels=2)), ConvNet(3, 4, 2)),
        torch.randn(3, 2, 4, 4),
        torch.randn(3, 3, 4, 4),
    ),
    "squeeze": lambda: (Squeeze(), torch.randn(2, 2, 4, 6), None),
    "permute": lambda: (Permute([2, 0, 3, 1]), torch.randn(3, 4, 2, 2), None),
    "flip": lambda: (Flip(), torch.randn(3, 5), None),
    "logit": lambda: (Logit(0.05), torch.rand(3, 1, 4, 4), None),
    "logit without squeeze": lambda: (Logit(0.0), torch.rand(3, 4) * 0.98 + 0.01, None),
    "actnorm": lambda: (_initialized(ActNorm(3), 4, 3, 2, 2), torch.randn(2, 3, 4, 2), None),
    "actnorm on vectors": lambda: (_initialized(ActNorm(4), 5, 4), torch.randn(3, 4), None),
    # Not square: the original counts width x width.
    "conv 1x1": lambda: (Conv1x1(6), torch.randn(2, 6, 4, 2), None),
    "conv 1x1, full": lambda: (Conv1x1(4, form="full"), torch.randn(2, 4, 2, 3), None),
    "gaussian prior": lambda: (
        GaussianPrior(ConvNet(3, 4, 4)),
        torch.randn(3, 2, 4, 2),
        torch.randn(3, 3, 4, 2),
    ),
    "affine coupling, first half": lambda: (_coupling(MLP(2, 8, 4)), torch.randn(5, 4), None),
    "affine coupling, second half": lambda: (
        _coupling(GatedConvNet(2, 4, 4, num_blocks=2), keep="second", shift_first=True),
        torch.randn(3, 4, 4, 4),
        None,
    ),
    "affine coupling, mask": lambda: (
        _coupling(
            GatedConvNet(2, 4, 4, num_blocks=1, context_channels=1),
            keep=checkerboard(4, 6),
            bound=LearnedTanh(2),
            shift_first=True,
        ),
        torch.randn(3, 2, 4, 6),
        torch.randn(3, 1, 4, 6),
    ),
    "affine coupling, mask on vectors": lambda: (
        _coupling(MLP(3, 8, 6), keep=torch.tensor([True, False, False])),
        torch.randn(4, 3),
        None,
    ),
    "affine coupling of Glow": lambda: (
        _initialized(_coupling(ActNormConvNet(2, 6, 4), bound=SigmoidScale(), shift_first=True), 4, 4, 4, 2),
        torch.randn(3, 4, 4, 2),
        None,
    ),
    "affine coupling, scales of a half at least": lambda: (
        _initialized(_coupling(ActNormConvNet(2, 6, 4), bound=SigmoidScale(lowest=0.5)), 4, 4, 4, 2),
        torch.randn(3, 4, 4, 2),
        None,
    ),
    "affine coupling, one channel kept": lambda: (
        _coupling(ConvNet(1, 4, 4, context_channels=2), keep=1, bound=ArctanScale()),
        torch.randn(3, 3, 4, 2),
        torch.randn(3, 2, 4, 2),
    ),
    "affine coupling, nothing kept": lambda: (
        _coupling(ConvNet(0, 4, 2, context_channels=2), keep=0, bound=ArctanScale(1.5), shift_first=True),
        torch.randn(3, 1, 4, 2),
        torch.randn(3, 2, 4, 2),
    ),
    "affine injector": lambda: (
        AffineInjector(ConvNet(2, 4, 6), bound=ArctanScale()),
        torch.randn(3, 3, 4, 2),
        torch.randn(3, 2, 4, 2),
    ),
    "affine injector on vectors": lambda: (AffineInjector(MLP(3, 8, 4)), torch.randn(5, 2), torch.randn(5, 3)),
    "coarse to fine": lambda: (_coarse_to_fine(), torch.randn(3, 32 + 12 + 16), torch.randn(3, 16 + 8 + 4)),
    "coarse to fine of one level": lambda: (
        CoarseToFine(
            [WithContext(GaussianPrior(ConvNet(1, 4, 4)), PickLevels([(1, 2, 2)], [0]))], [(2, 2, 2)], [(1, 2, 2)]
        ),
        torch.randn(3, 8),
        torch.randn(3, 4),
    ),
    "mixture coupling": lambda: (
        MixtureCoupling(
            GatedAttentionNet(2, 8, (2 + 3 * 4) * 2, num_blocks=1), num_components=4, keep="second", bound=ScaledTanh(2)
        ),
        torch.randn(2, 4, 3, 4),
        None,
    ),
    "inverse of a mixture coupling": lambda: (Inverse(MixtureCoupling(MLP(2, 8, 22), 3)), torch.randn(5, 4), None),
    "mixture coupling on vectors": lambda: (
        MixtureCoupling(MLP(2, 8, (2 + 3 * 3) * 2, context_features=1), num_components=3),
        torch.randn(5, 4),
        torch.randn(5, 1),
    ),
    # Elements inside and outside of the spline's interval.
    "spline coupling": lambda: (
        SplineCoupling(ConvNet(2, 6, 2 * 11), Spline(4, bound=1.5), keep="second"),
        torch.randn(2, 4, 3, 4),
        None,
    ),
    "spline coupling, mask": lambda: (
        SplineCoupling(ConvNet(1, 6, 8, context_channels=2), Spline(3), keep=checkerboard(4, 2)),
        torch.randn(3, 1, 4, 2),
        torch.randn(3, 2, 4, 2),
    ),
    "patches": lambda: (Patches((2, 4, 6), 2), torch.randn(3, 2, 4, 6), None),
    "patch autoregressive": lambda: (_patches(), torch.randn(3, 5, 2), None),
    "patch autoregressive, reversed, with a context": lambda: (
        _patches(reverse=True, context_features=3),
        torch.randn(3, 5, 2),
        torch.randn(3, 3),
    ),
    "patch autoregressive, by Jacobi iteration": lambda: (
        _patches(solver="jacobi", tolerance=0.0),
        torch.randn(3, 5, 2),
        None,
    ),
    "masked autoregressive, affine": lambda: (MaskedAutoregressive(MADE(5, 12, 2), Affine()), torch.randn(3, 5), None),
    "masked autoregressive, mixtures with a context": lambda: (
        MaskedAutoregressive(MADE(4, 9, 9, context_features=3), LogisticMixture(3)),
        torch.randn(3, 4),
        torch.randn(3, 3),
    ),
    "masked autoregressive, splines": lambda: (
        MaskedAutoregressive(MADE(3, 8, 14, num_hidden=1), Spline(5, bound=2.0)),
        torch.randn(4, 3),
        None,
    ),
    "inverse autoregressive": lambda: (
        Inverse(MaskedAutoregressive(MADE(3, 8, 2, context_features=2), Affine())),
        torch.randn(4, 3),
        torch.randn(4, 2),
    ),
    "gaussian prior of Glow": lambda: (GaussianPrior(ZeroConv(2, 4)), torch.randn(3, 2, 4, 2), torch.randn(3, 2, 4, 2)),
    "ConvLSTM prior": lambda: (
        ConvLSTMPrior(ConvLSTM(1 + 2, 4, 2, num_layers=2, kernel_size=5, dilation=2), ConvNet(3, 4, 2)),
        torch.randn(2, 3, 4, 5),
        torch.randn(2, 3, 4, 5),
    ),
    "ConvLSTM prior without context": lambda: (
        ConvLSTMPrior(ConvLSTM(1, 4, 2, num_layers=1, kernel_size=3)),
        torch.randn(2, 4, 3, 2),
        None,
    ),
    "flatten": lambda: (Flatten((2, 3, 4)), torch.randn(2, 2, 3, 4), None),
    "residual block": lambda: (
        ResidualBlock(LipschitzConvNet((2, 3, 4), 6), ExactLogDet()),
        torch.randn(3, 2, 3, 4),
        None,
    ),
    "residual block with a context": lambda: (
        ResidualBlock(
            LipschitzConvNet((1, 4, 3), 5, activation="elu", context_channels=2),
            ExactLogDet(),
            window=3,
        ),
        torch.randn(3, 1, 4, 3),
        torch.randn(3, 2, 4, 3),
    ),
    "residual block on vectors": lambda: (
        ResidualBlock(LipschitzMLP(3, 8, context_features=1), ExactLogDet()),
        torch.randn(4, 3),
        torch.randn(4, 1),
    ),
    "inverse of a residual block": lambda: (
        Inverse(ResidualBlock(LipschitzMLP(3, 8), ExactLogDet())),
        torch.randn(4, 3),
        None,
    ),
    "multiscale, keeping first": lambda: (
        Multiscale([_level(1), _level(2)], (1, 8, 4), priors=[_context_prior(2), Identity()]),
        torch.randn(2, 1, 8, 4),
        None,
    ),
    "multiscale, keeping second": lambda: (
        Multiscale([_level(2), Squeeze()], (2, 4, 4), keep="second"),
        torch.randn(2, 2, 4, 4),
        None,
    ),
}


def make(name: str, dtype: torch.dtype = torch.float32):
    """The case with random weights: zero-initialised last layers would make every coupling the identity."""
    torch.manual_seed(0)
    bijection, x, context = CASES[name]()
    with torch.no_grad():
        for parameter in bijection.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    update_norms(bijection)
    bijection = bijection.to(dtype)
    return bijection, x.to(dtype), None if context is None else context.to(dtype)
