"""The settings in which two measurements of a task may differ: precision, memory, revision and others."""

from dataclasses import dataclass, fields, replace

PRECISIONS = ("32-true", "bf16-mixed")
MEMORY_MODES = ("plain", "checkpoint", "invertible")
PACKAGES = ("nbflows", "normflows", "nflows", "zuko")
WORKING_TREE = "."


class UsageError(ValueError):
    """A requested setting does not exist; the message lists those that do."""


@dataclass(frozen=True)
class Configuration:
    """One way to run a task.

    Attributes:
        precision: precision of the networks, as ``nbflows train --precision`` names it.
        compile: "on" as with ``nbflows train --compile``, or "off".
        memory: as ``nbflows train --memory`` names it.
        threads: number of CPU threads.
        package: nbflows, or another one that has the same layer.
        rev: a revision of git whose nbflows runs; "." is the working tree.
    """

    precision: str = "32-true"
    compile: str = "off"
    memory: str = "plain"
    threads: int = 2
    package: str = "nbflows"
    rev: str = WORKING_TREE

    def __post_init__(self):
        known = {"precision": PRECISIONS, "compile": ("on", "off"), "memory": MEMORY_MODES, "package": PACKAGES}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise UsageError(f"{name} is one of {', '.join(values)}, got {getattr(self, name)!r}")
        if self.threads < 1:
            raise UsageError(f"threads is at least 1, got {self.threads}")
        if self.package != "nbflows" and replace(self, package="nbflows", threads=1) != Configuration(threads=1):
            raise UsageError(f"{self.package} runs as it is: only threads can be set with it")

    def __str__(self) -> str:
        """Returns the settings that differ from the defaults, in the syntax of ``parse``; "default" if none does."""
        settings = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        return ",".join(f"{name}={value}" for name, value, default in settings if value != default) or "default"


def parse(text: str, base: Configuration | None = None) -> Configuration:
    """Parses "name=value,name=value" or "default"; settings that are not named come from ``base``."""
    base = base or Configuration()
    names = [field.name for field in fields(Configuration)]
    changes = {}
    for setting in text.split(",") if text != "default" else []:
        name, equals, value = setting.strip().partition("=")
        if not equals or name not in names:
            raise UsageError(
                f"a configuration is 'default' or settings like precision=bf16-mixed,threads=1, of {', '.join(names)}; "
                f"got {setting!r}"
            )
        changes[name] = value
    if "threads" in changes:
        try:
            changes["threads"] = int(changes["threads"])
        except ValueError:
            raise UsageError(f"threads is a number, got {changes['threads']!r}") from None
    return replace(base, **changes)
