"""The exercises of lesson 03, coupling layers: hidden inputs, hints and solutions."""

import torch

from nbflows import Sequential, layers, nets
from nbflows.bijection import Bijection
from nbflows.exercises.lab import Exercise


def shift_afterwards(t, s):
    return t * s.exp()


class Repaired(Bijection):
    def __init__(self, net, mask):
        super().__init__()
        self.net, self.mask = net, mask

    def shift_and_log_scale(self, x):
        t, r = self.net(x * self.mask).chunk(2, dim=1)
        return t * ~self.mask, torch.tanh(r) * ~self.mask

    def forward(self, x, context=None):
        t, s = self.shift_and_log_scale(x)
        return torch.where(self.mask, x, (x + t) * s.exp()), s.flatten(1).sum(1)

    def inverse(self, z, context=None):
        t, s = self.shift_and_log_scale(z)
        return torch.where(self.mask, z, z * (-s).exp() - t)


def share(bijection, x):
    jacobian = torch.autograd.functional.jacobian(lambda x: bijection(x)[0], x)
    return (jacobian != 0).double().mean()


class CountsKept(Repaired):
    def shift_and_log_scale(self, x):
        t, r = self.net(x * self.mask).chunk(2, dim=1)
        return t * ~self.mask, torch.tanh(r)


class SameOrder(Repaired):
    def inverse(self, z, context=None):
        t, s = self.shift_and_log_scale(z)
        return torch.where(self.mask, z, (z - t) * (-s).exp())


def shift_and_scale(generator):
    side = int(torch.randint(2, 6, (1,), generator=generator))
    return tuple(torch.randn(2, 3, 1, side, side, generator=generator, dtype=torch.float64))


def random_net(generator, hidden_channels):
    net = nets.ConvNet(1, hidden_channels, 2).double()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return net


def stack(generator):
    count, side = (int(torch.randint(low, high, (1,), generator=generator)) for low, high in ((1, 4), (5, 8)))
    masks = [layers.checkerboard(side, side, invert=i % 2 == 1) for i in range(count)]
    couplings = [layers.AffineCoupling(random_net(generator, 4), keep=mask) for mask in masks]
    return Sequential(*couplings), torch.randn(1, 1, side, side, generator=generator, dtype=torch.float64)


EXERCISES = {
    1: Exercise(
        solution=shift_afterwards,
        explanation="$(x + t) e^s = x e^s + t e^s$, so $t' = t e^s$: neither order can do more. They differ "
        "in training: with the shift first, the scale also acts on the shift.",
        hints=(
            "Multiply out (x + t) exp(s).",
            "x exp(s) is in both formulas. What is left of the first one?",
        ),
        inputs=shift_and_scale,
        mistakes={
            "this is t: it would have to be added before the scaling": lambda t, s: t,
            "this divides by the scale; that is for the opposite conversion": lambda t, s: t * (-s).exp(),
            "s is the logarithm of the scale": lambda t, s: t * s,
        },
    ),
    2: Exercise(
        solution=Repaired,
        explanation="`log_det` sums s over all pixels, but only moved pixels are scaled: s must be 0 elsewhere. And "
        "the inverse subtracts before it divides; it has to undo the last step first. A new network returns zeros, so "
        "that t = s = 0 and both faults are invisible. Test with random weights.",
        hints=(
            "Give the network random weights and call check_bijection. What does it say first?",
            "The last step of forward is the multiplication. Which is the first step of the inverse?",
            "When the round trip is right, check_bijection compares log_det. Which pixels contribute to it?",
        ),
        inputs=lambda generator: (torch.randn(3, 1, 6, 6, generator=generator, dtype=torch.float64),),
        build=lambda layer_class, generator: layer_class(random_net(generator, 8), layers.checkerboard(6, 6)),
        mistakes={
            "kept pixels contribute to log_det, but they are not scaled": CountsKept,
            "the steps are undone in the same order; undo the last one first": SameOrder,
        },
    ),
    3: Exercise(
        solution=share,
        explanation="For 8×8 pixels and three convolutions of 3×3 the shares are 13, 48, 83, 98, 100 and 100 %: five "
        "couplings. Three convolutions reach three pixels in each direction, so three hops should do for seven pixels "
        "from corner to corner. But every hop leads from one colour to the other, and opposite corners have the same "
        "colour, so the number of hops is even: four. And one colour is not read before the second coupling.",
        hints=(
            "torch.autograd.functional.jacobian(function, x) returns all derivatives of a function at x.",
            "The function is lambda x: bijection(x)[0], because a bijection also returns log_det.",
            "Compare with 0, and take the mean of the result as numbers: (jacobian != 0).double().mean().",
        ),
        inputs=stack,
        mistakes={
            "this is the share of zeros": lambda bijection, x: 1 - share(bijection, x),
            "this counts the pairs; divide by their number": lambda bijection, x: share(bijection, x) * x.numel() ** 2,
        },
    ),
}
