"""Guards for gradients written by hand: where code is traced or transformed, or differentiated twice."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def traced() -> bool:
    """Whether code may not read numbers because torch.compile, torch.export, torch.jit or torch.func runs it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed()  # pyright: ignore[reportPrivateImportUsage]


def exporting() -> bool:
    """Whether torch.export runs the code; torch 2.6 cannot tell."""
    return getattr(torch.compiler, "is_exporting", lambda: False)()


def exporting_to_onnx() -> bool:
    """Whether ``torch.onnx.export`` runs the code; torch 2.6 cannot tell."""
    return exporting() and torch.onnx.is_in_onnx_export()


# This line is torch.compiler.assume_constant_result without its import of the whole compiler. Otherwise the compiler,
# which torch.onnx uses on its second attempt, takes is_in_onnx_export for false.
vars(exporting_to_onnx)["_dynamo_marked_constant"] = True


def transformed() -> bool:
    """Whether torch.func (``grad``, ``vmap``, ``jvp`` ...) or forward-mode differentiation runs the code."""
    # torch calls the same function before each autograd.Function; it has no public name.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def again() -> bool:
    """Whether the result of the running backward is differentiated again, or computed for several gradients at once."""
    return torch.is_grad_enabled() or transformed()


def refuse_transforms(what: str) -> None:
    """Raises RuntimeError within torch.func and torch.export for code that they cannot run."""
    if torch.compiler.is_compiling():
        if exporting():
            raise RuntimeError(f"{what}, which torch.export cannot trace: save the flow with save_flow")
    elif transformed():
        raise RuntimeError(f"{what}, which torch.func cannot transform: call torch.autograd.grad, one batch at a time")


def refuse_vmap(what: str, x: Tensor) -> None:
    """Raises RuntimeError if ``vmap`` hides the numbers of x, for code that branches on them."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            raise RuntimeError(f"{what}, which torch.func.vmap cannot transform: call it with whole batches")
        x = functorch.get_unwrapped(x)


def once(x: Tensor, message: str) -> Tensor:
    """Returns x with a gradient that raises RuntimeError, instead of being wrong, if it is differentiated again."""
    return _Once.apply(x, message) if x.requires_grad else x


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, message: str) -> Tensor:
        ctx.message = message
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        if again():
            raise RuntimeError(ctx.message)
        return grad, None
