"""Downloads a file, which is complete and has the expected hash, or fails."""

import errno
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nbflows.progress import bar

if TYPE_CHECKING:
    from pooch.typing import Downloader

# Timeout in seconds for a connection, and for the next bytes.
TIMEOUT = (10, 30)
RETRIES = 2
# The limit of a file of unknown size; the largest named one has 1.2 GB.
MAX_BYTES = 2**32
# The lowest average bytes per second after a minute; a timeout alone would accept a byte now and then.
SLOWEST = 1000


class DownloadError(OSError):
    """A file could not be downloaded; the message says why."""


def fetch(
    address: str, file: Path, sha256: str | None = None, num_bytes: int | None = None, progress: bool = True
) -> Path:
    """Downloads to ``file``, unless it exists with the right hash.

    A temporary file gets the bytes, and replaces ``file`` only if the hash is right. A connection that fails is tried
    twice more, from the beginning, because pooch cannot continue in the middle of a file.

    Args:
        address: http or https.
        sha256: hash of the file, in hexadecimal; None if unknown.
        num_bytes: size of the file, at which a server that sends more is stopped; None means 4 GiB.
        progress: show a bar.

    Raises:
        DownloadError: the file is missing or unreachable, the connection broke, the bytes differ, or the disk is full.
            No file remains.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    if not address.lower().startswith(("http://", "https://")):
        raise DownloadError(f"{address} is not an address of http or https")
    keeper = pooch.create(
        file.parent, base_url="", registry={file.name: sha256}, urls={file.name: address}, retry_if_failed=RETRIES
    )

    limit = MAX_BYTES if num_bytes is None else num_bytes

    def download(address: str, output_file: str, keeper: pooch.Pooch) -> None:
        start = time.monotonic()
        plain = {"Accept-Encoding": "identity"}
        received_bytes = bar(None, file.name, show=progress, total=num_bytes, unit="B", unit_scale=True)
        with (
            requests.get(address, stream=True, timeout=TIMEOUT, headers=plain) as response,
            open(output_file, "wb") as stream,
            received_bytes,
        ):
            response.raise_for_status()
            received = 0
            for chunk in response.iter_content(2**16):
                received += len(chunk)
                # Stop before an endless file fills the disk.
                if received > limit:
                    raise ValueError(f"the server sends more than the {limit} bytes that the file has at most")
                # Weights do not compress: a response that does may be a few bytes that unpack to any size.
                if received > 20 * response.raw.tell() + 2**20:
                    raise ValueError(f"the server sends {response.raw.tell()} bytes that unpack to {received} and more")
                if (seconds := time.monotonic() - start) > 60 and received < SLOWEST * seconds:
                    raise ValueError(f"{received} bytes came in {seconds:.0f} seconds: too slow to wait for")
                stream.write(chunk)
                received_bytes.update(len(chunk))
        # Temporary files are readable by one user only, but a class may share a cache.
        Path(output_file).chmod(0o644)

    try:
        # pooch calls it by position; its type also asks for pooch's own names of the arguments.
        return Path(keeper.fetch(file.name, downloader=cast("Downloader", download)))
    except requests.HTTPError as error:
        # raise_for_status gives its error the response, other errors of requests may have none.
        assert error.response is not None
        raise DownloadError(
            f"{address} answers {error.response.status_code} {error.response.reason}; asked {RETRIES + 1} times"
        ) from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise DownloadError(f"{address} broke off in the middle; tried {RETRIES + 1} times ({error})") from error
    except requests.RequestException as error:
        # In the middle of a file, a timeout is reported as a lost connection.
        stalled = isinstance(error, requests.Timeout) or "timed out" in str(error)
        what = f"sends nothing for {TIMEOUT[1]} s" if stalled else "cannot be reached"
        raise DownloadError(f"{address} {what}; tried {RETRIES + 1} times ({error})") from error
    except ValueError as error:
        raise DownloadError(f"what {address} sends is not the file that was asked for: {error}") from error
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else f"no writing there ({error.strerror or error})"
        raise DownloadError(f"{file.name} cannot be kept in {file.parent}: {why}") from error
