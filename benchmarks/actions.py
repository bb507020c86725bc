"""The timed actions of a flow: a training step, the likelihood, sampling."""

from collections.abc import Callable

from benchmarks.harness import Workload


def noise_images(*shape: int):
    """Random images, which take the same time as real ones."""
    import torch

    return torch.randint(256, shape).byte()


def initialized(flow, *inputs):
    """The same flow after a first batch, which sets every ActNorm."""
    import torch

    # Its graph would need more memory than a training step that saves memory.
    with torch.no_grad():
        flow.log_prob(*inputs)
    return flow


def training(flow, loss: Callable[[], object]) -> Workload:
    """A step of Adam with clipping, which also updates operator norms; ``loss`` computes the objective."""
    import torch

    from nbflows.nets import update_norms

    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        update_norms(flow)

    return Workload(step, flow)


def density_training(flow, images) -> Workload:
    """One step that minimises bits/dim."""
    return training(flow, lambda: flow.bits_per_dim(images).mean())


def likelihood(flow, *inputs) -> Workload:
    """The log-likelihood of a batch, one draw of dequantization noise."""
    import torch

    flow.eval()
    return Workload(torch.no_grad()(lambda: flow.log_prob(*inputs)), flow)


def sampling(flow, draw: Callable[[], object]) -> Workload:
    """Drawing from a flow."""
    flow.eval()
    return Workload(draw, flow)
