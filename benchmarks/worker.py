"""The fresh process: runs one task in one configuration, and prints what it measured as a line of JSON."""

import contextlib
import json
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.configuration import Configuration
from benchmarks.harness import Measurement, Workload, tasks_of

WARM_UP = 2


def measure(module: str, name: str, configuration: Configuration, repeats: int) -> Measurement:
    """Runs a task in this process: seconds of each repetition, and the peak memory."""
    tasks = tasks_of(module)
    if name not in tasks:
        raise ValueError(f"{module} has no task {name!r}: {', '.join(tasks)}")
    with _as_training_does(configuration):
        # The optimizer is loaded before any model exists, because its first step imports torch._dynamo.
        for package in ("nbflows", configuration.package, "torch._dynamo"):
            import_module(package)
        imports = peak_mib()
        workload = _prepare(tasks[name], configuration)
        seconds = []
        with _compiled(workload, configuration):
            for _ in range(WARM_UP + repeats):
                start = time.perf_counter()
                workload.run()
                seconds.append(time.perf_counter() - start)
    return Measurement(seconds[0], seconds[WARM_UP:], peak_mib(), imports)


@contextlib.contextmanager
def _as_training_does(configuration: Configuration) -> Iterator[None]:
    """Sets threads and precision, and the options of torch that a training sets."""
    import torch

    from nbflows import hardware

    if configuration.package != "nbflows":
        # Deprecations that other packages cause are not ours to fix.
        warnings.simplefilter("ignore")
    torch.set_num_threads(configuration.threads)
    torch.manual_seed(0)
    # As Lightning does for this precision.
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=configuration.precision == "bf16-mixed")
    with autocast, hardware.denormals_as_zero():
        yield


def _prepare(task, configuration: Configuration) -> Workload:
    prepare = {"nbflows": task.prepare, **task.peers}.get(configuration.package)
    if prepare is None:
        raise ValueError(f"{configuration.package} has nothing to compare: only {', '.join(['nbflows', *task.peers])}")
    workload = prepare()
    changed = configuration.memory != "plain" or configuration.compile == "on"
    if changed and workload.flow is None:
        raise ValueError("there is no flow in this task: nothing to compile, and no memory to save")
    # Called only where it changes something, so that revisions without this function can be compared.
    if configuration.memory != "plain":
        from nbflows import set_memory

        set_memory(workload.flow, configuration.memory)
    return workload


def _compiled(workload: Workload, configuration: Configuration) -> contextlib.AbstractContextManager:
    """Runs the flow as ``nbflows train --compile`` does, if the configuration says so."""
    if configuration.compile == "off":
        return contextlib.nullcontext()
    import torch

    from nbflows.training import compiling

    compiling.require_compiler(torch.device("cpu"))
    return compiling.CompiledLayers(workload.flow).active()


def peak_mib() -> float:
    """The most memory that this process has had so far."""
    if sys.platform == "linux":
        # The maximum of getrusage would begin with the memory of the parent process.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    # Bytes on a Mac, kilobytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    request["configuration"] = Configuration(**request["configuration"])
    print(json.dumps(asdict(measure(**request))))
