"""Files are written completely or not at all, by one process at a time; bars go to stdout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nbflows import files
from nbflows.progress import bar


def test_a_file_that_is_not_complete_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    file = tmp_path / "a.json"
    files.write(file, b"old")
    with pytest.raises(KeyboardInterrupt), files.replacing(file) as stream:
        stream.write(b"new")
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]
    # What torch makes of an error of the system.
    said = pytest.raises(OSError, match=r"a.json could not be written, and is as it was before \(no room\)")
    with said, files.replacing(file):
        raise RuntimeError("no room")


def test_kills_leave_one_temporary_file_at_most_which_the_next_write_replaces(tmp_path):
    file = tmp_path / "a.json"
    for content in (b"long" * 100, b"x"):
        (tmp_path / "a.json.tmp").write_bytes(b"of a killed process" * 100)
        files.write(file, content)
        assert file.read_bytes() == content and list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "none" / "a.json"))):
        files.write(tmp_path / "none" / "a.json", b"")


WRITER = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
for _ in range(20):
    with files.replacing(Path(sys.argv[2])) as stream:
        for _ in range(20):
            stream.write(sys.argv[3].encode() * 1000)
            stream.flush()
"""


@pytest.mark.skipif(files.fcntl is None, reason="Windows opens no file that is about to be renamed")
def test_processes_that_write_one_file_at_once_wait_for_each_other(tmp_path):
    file = tmp_path / "cache.npz"
    command = [sys.executable, "-c", WRITER, files.__file__, str(file)]
    running = [subprocess.Popen([*command, letter]) for letter in "abc"]
    seen = set()
    while any(process.poll() is None for process in running):
        if file.exists():
            content = file.read_bytes()
            seen.add((len(content), len(set(content))))
    assert [process.returncode for process in running] == [0, 0, 0]
    assert seen == {(20_000, 1)} and list(tmp_path.iterdir()) == [file]


def test_bars_go_to_stdout(capsys):
    assert list(bar(range(3), "counting")) == [0, 1, 2]
    assert list(bar(range(3), "not shown", show=False)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert "counting" in out and "not shown" not in out and not err


def test_no_file_of_the_package_makes_a_bar_of_its_own():
    package = Path(files.__file__).parent
    with_bars = {file.name for file in package.rglob("*.py") if re.search(r"\btqdm\(", file.read_text())}
    assert with_bars == {"progress.py"}
