"""Writes a file completely or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ModuleNotFoundError:
    # Windows, which does not let two processes open a file that is about to be renamed.
    fcntl = None


def write(file: Path, content: bytes) -> None:
    """Writes bytes as ``replacing`` does."""
    with replacing(file) as stream:
        stream.write(content)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Opens a stream whose content replaces ``file`` once it is complete and on the disk.

    The temporary file beside it always has the same name: a kill leaves one at most, and the next write replaces it.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; the file is as it was.
    """
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        with _alone(file.parent):
            try:
                with open(temporary, "wb") as stream:
                    yield stream
                    # Without it, a machine that loses power may have renamed a file that it has not written yet.
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(file)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
    # torch turns an error of the system into a RuntimeError.
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else error.__context__ or error
        raise OSError(f"{file} could not be written, and is as it was before ({reason})") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes other processes that write into a folder wait: several ranks cache the same pictures at once."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
