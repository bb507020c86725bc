"""Estimates what training the recipes of their papers' sizes takes: hours and memory, on one GPU and on 8.

    python -m benchmarks.scaling [RECIPE ...] [--efficiency 0.2] [--launch 8] [--write]
    python -m benchmarks.scaling --check

A training step (forward, backward, clipping, norms of weights) is run on the CPU with two images and with three, in
"bf16-mixed", and of each operation it is counted what it multiplies, reads and writes, and what memory is alive after
it. All of these are linear in the number of images, which gives the step of a recipe's batch. The estimate is

    max(sum over operations of max(FLOP / (efficiency peak), bytes / (efficiency bandwidth)),  launch * operations)

plus optimiser and all-reduce. No GPU was used for it. With --write the tables go into docs/scaling.md; --check holds
the same sum, with the rates of this machine's processor, against steps that are measured on it.
"""

import argparse
import contextlib
import math
import statistics
import sys
import time
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks import pages
from benchmarks.sizes import SIZES
from nbflows.training import objectives

PAGE = pages.DOCS / "scaling.md"
MARK = "{}: python -m benchmarks.scaling --write"


class GPU(NamedTuple):
    """What a data sheet says of it.

    Attributes:
        half, single: FLOP per second, of dense products in bfloat16, and in float32 without tensor cores.
        bandwidth: bytes per second, of its memory.
        memory: bytes.
        link: bytes per second to the other GPUs of its machine, one way.
    """

    half: float
    single: float
    bandwidth: float
    memory: float = math.inf
    link: float = math.inf


GPUS = {
    "H200": GPU(989e12, 67e12, 4.8e12, 141e9, 450e9),
    "A100-40GB": GPU(312e12, 19.5e12, 1.555e12, 40e9, 300e9),
}
CARDS = (8, 12, 16, 24, 40, 80, 141)

# How many images one's own folder holds is not known: as many steps as the code of CAFLOW's authors takes at most.
CAFLOW_STEPS = 200_000
COUPLINGS = ("affine", "mixlogcdf")
RECIPES = (
    *("mnist-simple", "mnist-variational", "mnist-multiscale", "cifar10-glow"),
    *(f"{data}-marscf-{kind}" for data in ("mnist", "cifar10", "imagenet32", "imagenet64") for kind in COUPLINGS),
    *(f"{data}-residual" for data in ("mnist", "cifar10", "imagenet32", "imagenet64", "celeba-hq")),
    *("ffhq-caflow-super-resolution", "lsun-caflow-colorization", "celeba-caflow-inpainting", "edges2shoes-caflow"),
)


# Counting ------------------------------------------------------------------------------------------------------------


class Operation(NamedTuple):
    """One of a step. ``alive``: bytes of all tensors made in the step that still exist after it."""

    name: str
    half: bool
    flops: float
    moved: float
    alive: float


class Counter(TorchDispatchMode):
    """Notes every operation inside that computes something; views do not."""

    def __init__(self):
        super().__init__()
        self.operations: list[Operation] = []
        self._alive, self._known = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        given = {tensor.untyped_storage()._cdata for tensor in inputs}
        made = [storage for tensor in outputs if (storage := tensor.untyped_storage())._cdata not in given]
        for storage in made:
            self._follow(storage)
        if (made or func._schema.is_mutable) and func.overloadpacket not in _ALLOCATIONS:
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **kwargs, out_val=result) if count else 0
            moved = sum(map(_num_bytes, inputs)) + sum(map(_num_bytes, outputs))
            half = any(tensor.dtype == torch.bfloat16 for tensor in inputs)
            self.operations.append(Operation(str(func.overloadpacket), half, flops, moved, self._alive))
        return result

    def _follow(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._alive += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size


_ALLOCATIONS = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.new_empty}


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _num_bytes(tensor: Tensor) -> int:
    # Along a dimension of stride 0 the same number is read again, from the cache.
    shape = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(shape) * tensor.element_size()


# With a single image torch takes other layouts in memory than with several.
BATCHES = (2, 3)


class Step(NamedTuple):
    """A training step as a function of the number of images.

    Attributes:
        two, three: its operations with two images and with three.
        parameters: of the model.
    """

    two: list[Operation]
    three: list[Operation]
    parameters: int

    def operations(self, batch: int) -> list[Operation]:
        """With a batch of images."""
        return [
            a._replace(**{key: _line(getattr(a, key), getattr(b, key), batch) for key in ("flops", "moved", "alive")})
            for a, b in zip(self.two, self.three, strict=True)
        ]


def _line(two: float, three: float, batch: int) -> float:
    return two + (batch - 2) * (three - two)


def count_step(name: str, memory: str = "plain", **changes) -> Step:
    """Runs a recipe's training step with two images and with three.

    Args:
        name: of the recipe.
        memory: see ``nbflows.set_memory``.
        changes: of the builder's arguments.
    """
    from nbflows import recipes, set_memory
    from nbflows.nets import update_norms

    recipe = recipes.get(name)
    module, images = _training_module(recipe, changes, max(4, *BATCHES))
    set_memory(module.flow, memory)

    def loss_of(batch: int) -> Tensor:
        return module.measure(*(part[:batch] for part in images))[module.objective].mean()

    parameters = list(module.flow.parameters())
    with _norms_converge_at_once():
        # The first batch sets the ActNorms.
        with torch.no_grad():
            loss_of(len(images[0]))
        counts = []
        for batch in BATCHES:
            with Counter() as counter:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_of(batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                update_norms(module.flow)
            module.flow.zero_grad()
            counts.append(counter.operations)
    if [operation.name for operation in counts[0]] != [operation.name for operation in counts[1]]:
        raise RuntimeError(f"{name}: a step of three images takes other operations than one of two")
    return Step(*counts, sum(parameter.numel() for parameter in parameters))


def _training_module(recipe, changes: dict, batch: int):
    """The Lightning module of a recipe, and a batch of random images for it."""
    from nbflows import models

    _, shape, num_levels = SIZES[recipe.data]
    arguments = {"num_levels": num_levels, **recipe.arguments, **changes}
    if arguments.get("coupling") == "mixlogcdf":
        # A GPU drops attention weights within its kernel, as the kernel without dropout does here.
        arguments["dropout"] = 0.0
    with _norms_converge_at_once(building=True):
        flow = getattr(models, recipe.builder)(shape, **arguments)
    for layer in flow.modules():
        roulette = getattr(getattr(layer, "log_det", None), "terms", None)
        if roulette is not None:
            layer.log_det.terms = _expected(roulette)
    kind = objectives.FlowModule if recipe.task is None else objectives.TranslationModule
    images = torch.randint(num_levels, (batch, *shape)).byte()
    paired = () if recipe.task is None else (torch.randint(256, (batch, *flow.context_shape)).byte(),)
    return kind(flow.train(), recipe, steps_per_epoch=1), (images, *paired)


def _expected(terms):
    """As many terms as roulette draws on average: the cost is linear in their number."""
    from nbflows.layers import RussianRoulette, TruncatedSeries

    if not isinstance(terms, RussianRoulette):
        return terms
    further = terms.parameter if terms.distribution == "poisson" else 1 / terms.parameter
    return TruncatedSeries(terms.num_exact_terms + round(further))


@contextlib.contextmanager
def _norms_converge_at_once(building: bool = False) -> Iterator[None]:
    """Power iteration takes no step in building, where thousands would make no difference here, and two afterwards."""
    from nbflows.nets import operator_norm

    converge = operator_norm._converge
    operator_norm._converge = lambda active: [
        norm.step(weight) for norm, weight in active for _ in range(2 * (not building))
    ]
    try:
        yield
    finally:
        operator_norm._converge = converge


# Estimating ----------------------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Of a training step, one GPU's part of it.

    Attributes:
        flops: of products.
        moved: bytes read and written.
        operations: how many.
        seconds: the sum over operations of what the slower of FLOP and bytes takes.
        peak: bytes alive at once, gradients included, weights not.
        parameters: of the model.
    """

    flops: float
    moved: float
    operations: float
    seconds: float
    peak: float
    parameters: float


def cost(step: Step, batch: int, gpu: GPU, efficiency: float) -> Cost:
    """Of so many images, on a GPU of whose rates a share is reached, the efficiency."""
    operations = step.operations(batch)
    seconds = (max(op.flops / (gpu.half if op.half else gpu.single), op.moved / gpu.bandwidth) for op in operations)
    return Cost(
        sum(op.flops for op in operations),
        sum(op.moved for op in operations),
        len(operations),
        sum(seconds) / efficiency,
        max(op.alive for op in operations),
        step.parameters,
    )


class Model(NamedTuple):
    """A recipe's training step, from steps of shallower models: every quantity is linear in the depth.

    Attributes:
        parts: these steps and the factors that they enter with.
    """

    parts: list[tuple[float, Step]]

    def cost(self, batch: int, gpu: GPU, efficiency: float = 1.0) -> Cost:
        """See ``cost``."""
        costs = [cost(step, batch, gpu, efficiency) for _, step in self.parts]
        factors = [factor for factor, _ in self.parts]
        return Cost(
            *(sum(f * value for f, value in zip(factors, values, strict=True)) for values in zip(*costs, strict=True))
        )


# Blocks of every level, and levels.
_RESIDUAL = {
    "residual_flow_imagenet32": (32, 3),
    "residual_flow_imagenet64": (32, 3),
    "residual_flow_celeba_hq": (16, 6),
}


def count_model(name: str, memory: str = "plain") -> Model:
    """Counts a recipe's step, if it is deep with one and two layers of each level."""
    from nbflows import recipes

    recipe = recipes.get(name)
    if "residual" in recipe.builder:
        depth, num_levels = _RESIDUAL.get(recipe.builder, (16, 3))
        shallow = [{"num_blocks": (count,) * num_levels} for count in (1, 2)]
    elif "num_steps" in recipe.arguments and recipe.builder != "caflow":
        depth, shallow = recipe.arguments["num_steps"], [{"num_steps": count} for count in (1, 2)]
    else:
        return Model([(1.0, count_step(name, memory))])
    factors = (2.0 - depth, depth - 1.0)
    return Model(
        [(factor, count_step(name, memory, **changes)) for factor, changes in zip(factors, shallow, strict=True)]
    )


# Of Adam or Adamax: gradient, weight, two moments read and three written; clipping: read, read and written; the average
# of the weights: read twice, written once.
_OPTIMIZER_BYTES = 4 * (7 + 3 + 3)
# Weight, two moments and the average; the gradient is among what a step keeps alive.
_STATE_BYTES = 4 * 4


class Estimate(NamedTuple):
    """Of a recipe on some GPUs.

    Attributes:
        seconds: of a step of the optimiser.
        launches: of it, what launching takes; when it is all of it, a faster GPU does not help.
        all_reduce: of it, adding up the gradients.
        memory: bytes of each GPU.
        share: of the peak in bfloat16 that the step reaches.
    """

    seconds: float
    launches: float
    all_reduce: float
    memory: float
    share: float


def estimate(model: Model, recipe, gpu: GPU, num_gpus: int, efficiency: float, launch: float) -> Estimate:
    """Of a recipe whose batch is shared out among GPUs of one machine, as ``--devices`` does."""
    part = max(1, recipe.batch_size // recipe.accumulate // num_gpus)
    step = model.cost(part, gpu, efficiency)
    # Two rounds of sending, of every GPU's share of the gradients; not while anything else is computed.
    all_reduce = 2 * (num_gpus - 1) / num_gpus * 4 * step.parameters / gpu.link
    launches = launch * step.operations * recipe.accumulate
    busy = recipe.accumulate * step.seconds + _OPTIMIZER_BYTES * step.parameters / gpu.bandwidth / efficiency
    seconds = max(busy, launches) + all_reduce
    memory = step.peak + _STATE_BYTES * step.parameters
    return Estimate(seconds, launches, all_reduce, memory, recipe.accumulate * step.flops / gpu.half / seconds)


def num_steps(recipe) -> int:
    """Of the whole training."""
    if recipe.data is None:
        return CAFLOW_STEPS
    return recipe.epochs * (SIZES[recipe.data].count // recipe.batch_size)


# Tables --------------------------------------------------------------------------------------------------------------

WORK = [
    "recipe",
    "parameters",
    "batch",
    "steps",
    "GFLOP an image",
    "MB moved an image",
    "operations a step",
    "FLOP in all",
]
HOURS = [
    "recipe",
    *(f"{count} x {name}, h" if count > 1 else f"{name}, h" for name in GPUS for count in (1, 8)),
    "share of the peak, H200",
    "one H200 waits for",
]
MEMORY = [
    "recipe",
    "weights and optimiser, GB",
    "plain: MB an image",
    "GB in all",
    "a GPU of",
    "invertible: MB an image",
    "GB in all",
    "a GPU of",
    "1 of 8 GPUs, plain, GB",
]


def work_row(name: str, model: Model) -> list[str]:
    """What the recipe computes. Of it everything else follows."""
    from nbflows import recipes

    recipe = recipes.get(name)
    batch = recipe.batch_size // recipe.accumulate
    step, less = (model.cost(images, GPUS["H200"]) for images in (batch, batch - 1))
    total = num_steps(recipe) * recipe.accumulate * step.flops
    return [
        name,
        f"{step.parameters / 1e6:.1f} M",
        f"{recipe.batch_size}",
        f"{num_steps(recipe):,}",
        f"{(step.flops - less.flops) / 1e9:.2f}",
        f"{(step.moved - less.moved) / 1e6:.0f}",
        f"{recipe.accumulate * step.operations:,.0f}",
        f"{total:.1e}",
    ]


def hours_row(name: str, model: Model, efficiency: float, launch: float) -> list[str]:
    """Hours of the whole training, validation left out."""
    from nbflows import recipes

    recipe = recipes.get(name)
    found = {
        (gpu, count): estimate(model, recipe, GPUS[gpu], count, efficiency, launch) for gpu in GPUS for count in (1, 8)
    }
    # Three digits, and no powers of ten.
    hours = [f"{float(f'{num_steps(recipe) * part.seconds / 3600:.3g}'):,g}" for part in found.values()]
    first = found["H200", 1]
    step = model.cost(recipe.batch_size // recipe.accumulate, GPUS["H200"])
    by_bytes = step.moved / GPUS["H200"].bandwidth > step.flops / GPUS["H200"].half
    limit = "launches" if first.launches >= first.seconds - first.all_reduce else "memory" if by_bytes else "arithmetic"
    return [name, *hours, f"{first.share:.1%}", limit]


def memory_row(name: str, plain: Model, invertible: Model) -> list[str]:
    """Memory of one GPU."""
    from nbflows import recipes

    recipe, gpu = recipes.get(name), GPUS["H200"]
    batch = recipe.batch_size // recipe.accumulate
    cells = []
    for model in (plain, invertible):
        step = model.cost(batch, gpu)
        slope = (step.peak - model.cost(batch // 2, gpu).peak) / (batch - batch // 2)
        total = (step.peak + _STATE_BYTES * step.parameters) / 1e9
        # Libraries, and what lies between tensors, take a share too.
        card = next((f"{card} GB" for card in CARDS if total < 0.85 * card), f"> {CARDS[-1]} GB")
        cells += [f"{slope / 1e6:.0f}", f"{total:.1f}", card]
    eighth = estimate(plain, recipe, gpu, 8, 1.0, 0.0).memory
    return [name, f"{5 * 4 * step.parameters / 1e9:.2f}", *cells, f"{eighth / 1e9:.1f}"]


# Checking ------------------------------------------------------------------------------------------------------------


def rates() -> GPU:
    """What this processor does with one thread: FLOP per second of a convolution, bytes per second of a sum."""

    def seconds(run) -> float:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        images = torch.randn(16, 64, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
        conv = torch.nn.Conv2d(64, 64, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)
        with torch.no_grad():
            found[dtype] = 2 * 16 * 64 * 64 * 9 * 32 * 32 / seconds(lambda conv=conv, images=images: conv(images))
    # Of the size of activations, which a processor's caches hold in part.
    a, b = torch.randn(2, 2**21)
    return GPU(found[torch.bfloat16], found[torch.float32], 3 * a.nbytes / seconds(lambda: torch.add(a, b, out=a)))


def check(names: list[str], batch: int = 16) -> list[list[str]]:
    """Steps measured on the CPU with one thread, beside the same sum with the CPU's rates."""
    from nbflows import hardware, recipes
    from nbflows.nets import update_norms

    torch.set_num_threads(1)
    hardware.keep_freed_memory()
    cpu, rows = rates(), []
    for name in names:
        floor = Model([(1.0, count_step(name))]).cost(batch, cpu).seconds
        module, images = _training_module(recipes.get(name), {}, batch)
        times = []
        with hardware.denormals_as_zero():
            for _ in range(7):
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = module.measure(*images)[module.objective].mean()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                update_norms(module.flow)
                module.zero_grad()
                times.append(time.perf_counter() - start)
        measured = statistics.median(times[2:])
        rows.append([name, f"{floor:.3f}", f"{measured:.3f}", f"{measured / floor:.1f}"])
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="RECIPE", help="default: all of a paper's size")
    parser.add_argument("--efficiency", type=float, default=0.2, metavar="SHARE", help="of both rates (default: 0.2)")
    parser.add_argument("--launch", type=float, default=8, metavar="US", help="microseconds an operation (default: 8)")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.parent.name}/{PAGE.name}")
    parser.add_argument("--check", action="store_true", help="steps measured on this machine, beside their estimates")
    options = parser.parse_args()
    if not 0 < options.efficiency <= 1 or options.launch < 0:
        parser.error(f"the efficiency is a share and a launch takes time, got {options.efficiency}, {options.launch}")
    unknown = sorted(set(options.names) - set(RECIPES))
    if unknown:
        parser.error(f"no recipe of a paper's size: {', '.join(unknown)}; known: {', '.join(RECIPES)}")

    from tabulate import tabulate

    if options.check:
        names = options.names or ["mnist-multiscale", "mnist-glow", "tiny-imagenet-32-caflow-colorization"]
        print(tabulate(check(names), ["recipe", "estimate, s", "measured, s", "ratio"], disable_numparse=True))
        return
    work, hours, memory, counted = [], [], [], {}
    for name in options.names or RECIPES:
        plain, invertible = (_counted(name, mode, counted) for mode in ("plain", "invertible"))
        work.append(work_row(name, plain))
        hours.append(hours_row(name, plain, options.efficiency, options.launch / 1e6))
        memory.append(memory_row(name, plain, invertible))
        print(f"{name}: {work[-1][4]} GFLOP an image", file=sys.stderr)
    tables = {"work": (work, WORK), "hours": (hours, HOURS), "memory": (memory, MEMORY)}
    for name, (rows, titles) in tables.items():
        print("\n" + tabulate(rows, titles, disable_numparse=True))
        if options.write:
            pages.write(PAGE, MARK.format(name), rows, titles, RECIPES)


def _counted(name: str, memory: str, counted: dict) -> Model:
    """``count_model``, once for recipes that have the same model."""
    from nbflows import recipes

    recipe = recipes.get(name)
    key = recipe.builder, str(recipe.arguments), SIZES[recipe.data].shape, recipe.task is None, memory
    if key not in counted:
        counted[key] = count_model(name, memory)
    return counted[key]


if __name__ == "__main__":
    main()
