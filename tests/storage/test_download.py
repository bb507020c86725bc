"""A file comes whole and with the right bytes, or not at all, and what went wrong is said."""

import builtins
import errno
import hashlib
import itertools
import os
import random
import subprocess
import tempfile
import time
from types import SimpleNamespace

import pytest

from nbflows.storage import download
from nbflows.storage.download import DownloadError
from tests import http_server
from tests.http_server import give_up_after

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
# More than these must not be taken of a file of 300,000 bytes: a few chunks, and what the system keeps in its buffers.
SOON = 20_000_000


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "cache"


def fetch(server, cache, *answers, **changes):
    """Asks the server, which gives these answers, for the file."""
    server.answers["/file.bin"] = list(answers)
    expected = {"sha256": SHA256, "num_bytes": len(CONTENT), "progress": False, **changes}
    return download.fetch(f"{server.address}/file.bin", cache / "file.bin", **expected)


def files(folder):
    """Everything below a folder, hidden files too."""
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


RIGHT = {
    "whole": http_server.whole(CONTENT),
    "without a length": http_server.without_length(CONTENT),
    "in large pieces": http_server.in_pieces(CONTENT, 100_000),
    # As from a proxy: no piece fills a buffer of the client.
    "in small pieces": http_server.in_pieces(CONTENT, 3000),
    "compressed on the way": http_server.compressed(CONTENT),
}


@pytest.mark.parametrize("answer", RIGHT)
def test_the_right_file_arrives_however_it_is_sent(server, cache, answer):
    file = fetch(server, cache, RIGHT[answer])
    assert file == cache / "file.bin"
    assert file.read_bytes() == CONTENT
    assert files(cache) == ["file.bin"]
    assert server.asked == ["/file.bin"]


def test_a_whole_class_can_read_a_cache_that_one_of_them_fills(server, cache):
    assert fetch(server, cache, http_server.whole(CONTENT)).stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_there_is_not_asked_for_again(server, cache):
    fetch(server, cache, http_server.whole(CONTENT))
    fetch(server, cache, http_server.whole(OTHER))
    assert len(server.asked) == 1
    assert (cache / "file.bin").read_bytes() == CONTENT


WRONG = {
    "cut off": (http_server.cut_off(CONTENT, 200_000), "broke off in the middle"),
    "cut off, and no length was said": (
        http_server.without_length(CONTENT[:200_000]),
        "is not the file that was asked for",
    ),
    "empty": (http_server.whole(b""), "is not the file that was asked for"),
    "other bytes": (http_server.whole(OTHER), "is not the file that was asked for: SHA256"),
    "more bytes": (http_server.whole(CONTENT + b"!"), "is not the file that was asked for"),
    "a page that says sorry": (http_server.whole(b"<html>log in first</html>"), "is not the file that was asked for"),
    "not found": (http_server.status(404), "answers 404 Not Found"),
    "forbidden": (http_server.status(403), "answers 403 Forbidden"),
    "out of order": (http_server.status(500), "answers 500 Internal Server Error"),
    "a stall before the first byte": (http_server.stall(), r"sends nothing for 0\.5 s"),
    "a stall before the body": (http_server.stall(CONTENT, 0), r"sends nothing for 0\.5 s"),
    "a stall in the middle": (http_server.stall(CONTENT, 200_000), r"sends nothing for 0\.5 s"),
    "no end": (http_server.endless, f"sends more than the {len(CONTENT)} bytes"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_tried_again_then_refused_and_leaves_nothing(server, cache, fault, monkeypatch):
    answer, message = WRONG[fault]
    if "stall" in fault:
        give_up_after(0.5, monkeypatch)
    started = time.monotonic()
    with pytest.raises(DownloadError, match=message) as refused:
        fetch(server, cache, answer)
    # Two tries of half a second; without giving up a stall lasts for half a minute.
    assert time.monotonic() - started < 20
    assert f"{server.address}/file.bin" in str(refused.value)
    assert files(cache) == []
    assert len(server.asked) == 2


def test_how_often_it_was_tried_is_said(server, cache, monkeypatch):
    give_up_after(0.5, monkeypatch)
    for fault in ("cut off", "not found", "a stall before the body"):
        with pytest.raises(DownloadError, match="2 times"):
            fetch(server, cache, WRONG[fault][0])


def test_a_server_without_end_is_stopped_soon(server, cache):
    with pytest.raises(DownloadError, match="sends more than"):
        fetch(server, cache, http_server.endless)
    assert server.sent < SOON < http_server.MOST_BYTES


def test_no_server_at_all_is_an_error_that_leaves_nothing(server, cache):
    server.stop()
    with pytest.raises(DownloadError, match=f"{server.address}/file.bin cannot be reached; tried 2 times"):
        fetch(server, cache)
    assert files(cache) == []


@pytest.mark.parametrize("fault", ["cut off", "other bytes", "not found", "out of order", "a stall in the middle"])
def test_one_failure_is_forgiven(server, cache, fault, monkeypatch):
    give_up_after(2 if "stall" in fault else 20, monkeypatch)
    file = fetch(server, cache, WRONG[fault][0], http_server.whole(CONTENT))
    assert file.read_bytes() == CONTENT
    assert files(cache) == ["file.bin"]
    assert len(server.asked) == 2


def test_two_more_tries_and_patience_are_the_default():
    assert download.RETRIES == 2
    assert all(5 <= seconds <= 60 for seconds in download.TIMEOUT)


def test_a_wrong_file_is_replaced(server, cache):
    cache.mkdir(parents=True)
    (cache / "file.bin").write_bytes(OTHER)
    assert fetch(server, cache, http_server.whole(CONTENT)).read_bytes() == CONTENT
    assert files(cache) == ["file.bin"]


def test_a_wrong_file_that_cannot_be_replaced_is_not_given_out(server, cache):
    cache.mkdir(parents=True)
    (cache / "file.bin").write_bytes(OTHER)
    with pytest.raises(DownloadError, match="answers 404"):
        fetch(server, cache, http_server.status(404))
    assert files(cache) == ["file.bin"]


def test_without_a_known_hash_what_comes_is_taken_but_not_what_breaks_off(server, cache):
    with pytest.raises(DownloadError, match="broke off in the middle"):
        fetch(server, cache, http_server.cut_off(CONTENT, 200_000), sha256=None, num_bytes=None)
    assert files(cache) == []
    assert fetch(server, cache, http_server.whole(CONTENT), sha256=None, num_bytes=None).read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/a", "/etc/hostname", "a"])
def test_only_http_is_asked(cache, address):
    with pytest.raises(DownloadError, match=f"^{address} is not an address of http or https"):
        download.fetch(address, cache / "a")
    assert not cache.exists()


@pytest.mark.parametrize("address", ["http://", "http://[", "http://127.0.0.1:99999/a"])
def test_an_address_that_is_none_is_an_error_too(server, cache, address):
    with pytest.raises(DownloadError, match="http://"):
        download.fetch(address, cache / "a", progress=False)


def test_the_progress_bar_is_shown_on_request_and_not_in_red(server, cache, capsys):
    fetch(server, cache, http_server.whole(CONTENT), progress=True)
    shown = capsys.readouterr()
    assert "file.bin" in shown.out and "300k" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("answer", ["whole", "without a length", "in small pieces"])
def test_the_progress_bar_can_be_left_out(server, cache, answer, capsys):
    fetch(server, cache, RIGHT[answer])
    assert capsys.readouterr() == ("", "")


# --- no room for it ---------------------------------------------------------------------------------------------------


class _FullAfter:
    """A file on a disk that has room for the first bytes alone."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        self.file.write(content[: self.room])
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(content)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.file.close()


@pytest.fixture
def full_disk(cache, monkeypatch):
    """Half of the file has room."""
    really_open = builtins.open

    def open_(file, mode="r", *args, **kwargs):
        opened = really_open(file, mode, *args, **kwargs)
        inside = isinstance(file, str | os.PathLike) and str(file).startswith(str(cache))
        return _FullAfter(opened, len(CONTENT) // 2) if inside and set(mode) & set("wax+") else opened

    monkeypatch.setattr(builtins, "open", open_)


def test_a_full_disk_is_an_error_that_leaves_nothing(server, cache, full_disk):
    with pytest.raises(DownloadError, match=r"file.bin cannot be kept in .*: the disk is full"):
        fetch(server, cache, http_server.whole(CONTENT))
    assert files(cache) == []


def test_a_small_disk_that_is_full_is_an_error_that_leaves_nothing(server, tmp_path):
    cache = tmp_path / "small"
    cache.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(cache)]
    try:
        subprocess.run(mounted, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    try:
        with pytest.raises(DownloadError, match=r"file.bin cannot be kept in .*: the disk is full"):
            fetch(server, cache, http_server.whole(CONTENT))
        assert files(cache) == []
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_a_folder_that_cannot_be_made_is_an_error(server, tmp_path):
    (tmp_path / "a-file").write_text("in the way")
    for cache in (tmp_path / "a-file", tmp_path / "a-file" / "deep", tmp_path.__class__("/proc/nbflows")):
        with pytest.raises(DownloadError, match=f"file.bin cannot be kept in {cache}: no writing there"):
            fetch(server, cache, http_server.whole(CONTENT))
    assert files(tmp_path) == ["a-file"]


def test_a_folder_without_the_right_to_write_is_an_error(server, cache, monkeypatch):
    def refuse(*args, dir=None, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), dir)

    cache.mkdir(parents=True)
    # The rights of a folder do not stop root.
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(DownloadError, match=rf"file.bin cannot be kept in {cache}: no writing there \(.*ermission"):
        fetch(server, cache, http_server.whole(CONTENT))
    assert files(cache) == []


def test_a_read_only_folder_is_an_error(server, cache):
    if os.geteuid() == 0:
        pytest.skip("no folder is read-only for root")
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    try:
        with pytest.raises(DownloadError, match=f"file.bin cannot be kept in {cache}: no writing there"):
            fetch(server, cache, http_server.whole(CONTENT))
    finally:
        cache.chmod(0o700)
    assert files(cache) == []


def test_a_small_answer_that_unpacks_to_a_large_file_is_stopped_at_once(server, cache):
    """100 kB that are 100 MB, of a file whose size and hash are not known."""
    resource = pytest.importorskip("resource")
    bomb = http_server.compressed(bytes(10**8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DownloadError, match=r"the server sends \d+ bytes that unpack to \d+ and more"):
        fetch(server, cache, bomb, sha256=None, num_bytes=None)
    # The answer itself is made in this process too.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000
    assert files(cache) == []


def test_a_server_that_drips_is_given_up(server, cache, monkeypatch):
    ticks = itertools.count(step=100)
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(download, "SLOWEST", 10**6)
    with pytest.raises(DownloadError, match=r"\d+ bytes came in \d+ seconds: too slow"):
        fetch(server, cache, http_server.whole(CONTENT))
    assert files(cache) == []
