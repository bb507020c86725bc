"""Gets a file from an address: whole and with the right bytes, or not at all."""

import errno
import time
from pathlib import Path

from nbflows.progress import bar

# Seconds to wait for a connection, and for the next bytes.
TIMEOUT = (10, 30)
RETRIES = 2
# The limit where the size is not known; the largest that has a name has 1.2 GB.
MAX_BYTES = 2**32
# Bytes a second, on average, after a minute: a server that sends one now and then would never be given up.
SLOWEST = 1000


class DownloadError(OSError):
    """A file could not be had; the message says what happened."""


def fetch(
    address: str, file: Path, sha256: str | None = None, num_bytes: int | None = None, progress: bool = True
) -> Path:
    """Downloads to ``file``; a file that is there and has the right hash is left as it is.

    The bytes go to a temporary file beside it, which takes its name only once the hash is right. A connection that
    fails is tried twice more; pooch, which does the work, cannot go on in the middle of a file.

    Args:
        address: http or https.
        sha256: of the file, in hexadecimal; None if it is not known.
        num_bytes: of the file; a server that sends more is stopped, if it is None at 4 GiB.
        progress: show a bar.

    Raises:
        DownloadError: not there, not reachable, broken off, other bytes, or no room for it; nothing is left behind.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    if not address.lower().startswith(("http://", "https://")):
        raise DownloadError(f"{address} is no address of http or https")
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
                # A disk is not filled before the hash is compared.
                if received > limit:
                    raise ValueError(f"the server sends more than the {limit} bytes that the file has at most")
                # Weights do not compress: what does is no file of weights, but of a few bytes that become any number.
                if received > 20 * response.raw.tell() + 2**20:
                    raise ValueError(f"the server sends {response.raw.tell()} bytes that unpack to {received} and more")
                if (seconds := time.monotonic() - start) > 60 and received < SLOWEST * seconds:
                    raise ValueError(f"{received} bytes came in {seconds:.0f} seconds: too slow to wait for")
                stream.write(chunk)
                received_bytes.update(len(chunk))
        # Temporary files are for one user alone; a cache may be a whole class's.
        Path(output_file).chmod(0o644)

    try:
        return Path(keeper.fetch(file.name, downloader=download))
    except requests.HTTPError as error:
        raise DownloadError(
            f"{address} answers {error.response.status_code} {error.response.reason}; asked {RETRIES + 1} times"
        ) from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise DownloadError(f"{address} broke off in the middle; tried {RETRIES + 1} times ({error})") from error
    except requests.RequestException as error:
        # In the middle of a file a timeout comes as a lost connection.
        stalled = isinstance(error, requests.Timeout) or "timed out" in str(error)
        what = f"sends nothing for {TIMEOUT[1]} s" if stalled else "cannot be reached"
        raise DownloadError(f"{address} {what}; tried {RETRIES + 1} times ({error})") from error
    except ValueError as error:
        raise DownloadError(f"what {address} sends is not the file that was asked for: {error}") from error
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else f"no writing there ({error.strerror or error})"
        raise DownloadError(f"{file.name} cannot be kept in {file.parent}: {why}") from error
