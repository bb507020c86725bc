"""The manifest of published models: ``manifest.json`` describes each model, and has the hash of its file."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from nbflows import files, inputs

FORMAT = 1
# The fields that loading needs; other fields of an entry are kept.
REQUIRED = {"sha256": str, "bytes": int, "builder": str, "arguments": dict, "purpose": str, "licence": str}
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass
class Manifest:
    """The published models.

    Attributes:
        models: entries by name: SHA-256 and size of ``NAME.safetensors``, builder and its arguments, purpose, recipe,
            data, budget, test bits/dim, licence.
        base_url: address of the folder with the files; None if there is none.
        rest: fields of the file that this version does not know.
    """

    models: dict[str, dict]
    base_url: str | None = None
    rest: dict = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> "Manifest":
        """Reads a manifest. Raises ValueError for another file, a newer format, or an invalid name or field."""
        content = inputs.json_object(file)
        if not isinstance(content.get("models"), dict):
            raise ValueError(f"{file} is not a manifest: it has no 'models'")
        if content.get("format") != FORMAT:
            raise ValueError(
                f"{file} has format {content.get('format')}, this version of nbflows reads format {FORMAT}: update it"
            )
        if not isinstance(content.get("base_url"), str | None):
            raise ValueError(f"{file}: its base_url is not an address: {content['base_url']!r}")
        for name, entry in content["models"].items():
            check_name(name)
            for key, kind in REQUIRED.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                    raise ValueError(f"{file}: the entry of {name} has no {key!r} that is a {kind.__name__}")
            inputs.whole(entry["bytes"], f"{file}: the size of {name}", 0)
            if not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
                raise ValueError(f"{file}: the sha256 of {name} is not 64 hexadecimal digits: {entry['sha256']!r}")
        rest = {key: value for key, value in content.items() if key not in ("format", "models", "base_url")}
        return cls(content["models"], content.get("base_url"), rest)

    def write(self, file: Path) -> None:
        """Writes the manifest atomically, names in order."""
        content = {
            "format": FORMAT,
            "base_url": self.base_url,
            **self.rest,
            "models": dict(sorted(self.models.items())),
        }
        files.write(file, (json.dumps(content, indent=1) + "\n").encode())

    def entry(self, name: str) -> dict:
        """Returns the entry of a model. An unknown name is a ValueError that lists the known ones."""
        if name not in self.models:
            few = f"available: {', '.join(sorted(self.models))}. " if len(self.models) <= 5 else ""
            raise ValueError(
                f"no pretrained model named {name!r}; {inputs.did_you_mean(name, self.models)}{few}nbflows list shows "
                "them all, and a model of your own is loaded by its .safetensors file or the folder of its training"
            )
        return self.models[name]


def check_name(name: str) -> None:
    """Raises ValueError unless a name is valid; it is part of a path, so it must not lead out of a folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of a model: lower case, digits and single hyphens between them")


def sha256(content: bytes) -> str:
    """Returns the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
