"""Gradients written by hand: where autograd's take their place, and where they are differentiated again."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad


def traced() -> bool:
    """Whether numbers may not be looked at: torch.compile, torch.export or torch.func goes through the code."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed()


def exporting() -> bool:
    """Whether torch.export goes through the code; torch 2.6 does not say."""
    return getattr(torch.compiler, "is_exporting", lambda: False)()


def exporting_to_onnx() -> bool:
    """Whether ``torch.onnx.export`` goes through the code; torch 2.6 does not say."""
    return exporting() and torch.onnx.is_in_onnx_export()


# torch.compiler.assume_constant_result, which imports the whole compiler to say so. Without it the compiler, through
# which torch.onnx goes at its second try, takes is_in_onnx_export for false.
vars(exporting_to_onnx)["_dynamo_marked_constant"] = True


def transformed() -> bool:
    """Whether torch.func (``grad``, ``vmap``, ``jvp`` ...) or forward-mode differentiation goes through the code."""
    # torch asks the same before each call of an autograd.Function, and has no public name for it.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def again() -> bool:
    """Within a backward: whether its result is to be differentiated, or computed for several gradients at once."""
    return torch.is_grad_enabled() or transformed()


def refuse_transforms(what: str) -> None:
    """Raises RuntimeError within torch.func and torch.export for code that they cannot go through."""
    if torch.compiler.is_compiling():
        if exporting():
            raise RuntimeError(f"{what}, which torch.export cannot go through: save the flow with save_flow")
    elif transformed():
        raise RuntimeError(f"{what}, which torch.func cannot go through: call torch.autograd.grad, one batch at a time")


def refuse_vmap(what: str, x: Tensor) -> None:
    """Raises RuntimeError where ``vmap`` hides the numbers of x, for code that decides by them."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            raise RuntimeError(f"{what}, which torch.func.vmap cannot go through: call it with whole batches")
        x = torch._C._functorch.get_unwrapped(x)


def of_formula(formula: Callable, inputs: Sequence[Tensor], weights) -> tuple[Tensor, ...]:
    """The gradients of a plain formula for its inputs by autograd, which can be differentiated in turn.

    Args:
        formula: of ``inputs``, which are those that a function saved for its backward.
        weights: the gradients of what it returns.
    """
    return torch.func.vjp(formula, *inputs)[1](weights)


def once(x: Tensor, message: str) -> Tensor:
    """x, with a gradient that raises RuntimeError where it is differentiated again instead of being wrong."""
    return _Once.apply(x, message) if x.requires_grad else x


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, message):
        ctx.message = message
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        if again():
            raise RuntimeError(ctx.message)
        return grad, None
