"""What is published: ``manifest.json`` says of every model what it is, and which bytes it has."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from nbflows import files, inputs

FORMAT = 1
# What loading needs; whatever else an entry says is kept, and used by those who know it.
REQUIRED = {"sha256": str, "bytes": int, "builder": str, "arguments": dict, "purpose": str, "licence": str}
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass
class Manifest:
    """The published models.

    Attributes:
        models: by name: SHA-256 and size of ``NAME.safetensors``, builder and its arguments, what it is for, recipe,
            data, budget, test bits/dim, licence.
        base_url: address of the folder from which the files can be had; None if there is none.
        rest: fields of the file that this version does not know.
    """

    models: dict[str, dict]
    base_url: str | None = None
    rest: dict = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> "Manifest":
        """Raises ValueError if the file is no manifest, one of a newer format, or has a bad name or field."""
        content = inputs.json_object(file)
        if not isinstance(content.get("models"), dict):
            raise ValueError(f"{file} is no manifest: it has no 'models'")
        if content.get("format") != FORMAT:
            raise ValueError(
                f"{file} has format {content.get('format')}, this version of nbflows reads format {FORMAT}: update it"
            )
        if not isinstance(content.get("base_url"), str | None):
            raise ValueError(f"{file}: its base_url is no address: {content['base_url']!r}")
        for name, entry in content["models"].items():
            check_name(name)
            for key, kind in REQUIRED.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                    raise ValueError(f"{file}: the entry of {name} has no {key!r} that is a {kind.__name__}")
            inputs.whole(entry["bytes"], f"{file}: the size of {name}", 0)
            if not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
                raise ValueError(f"{file}: the sha256 of {name} is no 64 hexadecimal digits: {entry['sha256']!r}")
        rest = {key: value for key, value in content.items() if key not in ("format", "models", "base_url")}
        return cls(content["models"], content.get("base_url"), rest)

    def write(self, file: Path) -> None:
        """Writes it at once or not at all, names in order."""
        content = {
            "format": FORMAT,
            "base_url": self.base_url,
            **self.rest,
            "models": dict(sorted(self.models.items())),
        }
        files.write(file, (json.dumps(content, indent=1) + "\n").encode())

    def entry(self, name: str) -> dict:
        """What is known of a model. Raises ValueError that names those that there are."""
        if name not in self.models:
            few = f"available: {', '.join(sorted(self.models))}. " if len(self.models) <= 5 else ""
            raise ValueError(
                f"no pretrained model named {name!r}; {inputs.did_you_mean(name, self.models)}{few}nbflows list shows "
                "them all, and a model of your own is loaded by its .safetensors file or the folder of its training"
            )
        return self.models[name]


def check_name(name: str) -> None:
    """Raises ValueError unless a name can be that of a file: one that leads out of a folder cannot."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a model: lower case, digits and single hyphens between them")


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()
