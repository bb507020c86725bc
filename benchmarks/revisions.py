"""The package as it was at another revision of git, in a temporary folder."""

import contextlib
import io
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.configuration import WORKING_TREE, UsageError

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def checked_out(revision: str, repository: Path = ROOT) -> Iterator[Path]:
    """A folder that holds ``nbflows`` of this revision: a temporary one, or the repository itself for ".".

    Raises:
        UsageError: there is no such revision, or it has no ``nbflows``.
    """
    if revision == WORKING_TREE:
        yield repository
        return
    commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise UsageError(f"git knows no revision {revision!r} of {repository.name}: see git log, or '.' as it is now")
    # In a zip, unlike a tar, links become files, and nothing is written outside the folder.
    archive = _git(repository, "archive", "--format=zip", commit.decode().strip(), "nbflows")
    if archive is None:
        raise UsageError(f"there was no package nbflows at revision {revision!r}")
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
        yield Path(folder)


def _git(repository: Path, *arguments: str) -> bytes | None:
    try:
        result = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True)
    except FileNotFoundError:
        raise UsageError("git is not installed: revisions cannot be compared") from None
    return result.stdout if result.returncode == 0 else None
