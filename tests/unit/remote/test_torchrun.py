"""Which of how many nodes this machine is, and how its processes end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megl_core.errors import ConfigError
from megl_core.remote.torchrun import End, Nodes, nodes_from, run_processes

PLACE = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29400",
}


def test_the_runtimes_variables_name_the_place_of_a_node() -> None:
    assert nodes_from(PLACE) == Nodes(4, 2, 1, "job-node-0-0.job:29400")
    assert nodes_from({}) == Nodes(1)
    assert nodes_from({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2"}) == Nodes(2)


@pytest.mark.parametrize("wrong", [{"PET_NPROC_PER_NODE": "auto"}, {"PET_MASTER_PORT": ""}])
def test_variables_that_lead_nowhere_are_told(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="cannot find each other"):
        nodes_from(PLACE | wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "end"),
    [
        ("sys.exit(0)", End(0)),
        ("rank == 1 and sys.exit(3)", End(3, rank=1)),
        ("rank == 1 and os.kill(os.getpid(), 9)", End(137, rank=1)),
    ],
)
def test_the_first_process_that_fails_decides(tmp_path: Path, act: str, end: End) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import os, sys, time\nrank = int(os.environ['RANK'])\n{act}\ntime.sleep(60 * rank)\n")
    assert run_processes([str(script)], Nodes(2)) == end


@pytest.mark.slow
def test_sigterm_reaches_the_processes_and_ends_with_143(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, pathlib, signal, sys, time\n"
        "place = pathlib.Path(sys.argv[1]) / os.environ['RANK']\n"
        "def leave(number, frame):\n    place.write_text('saved')\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, leave)\nplace.write_text('ready')\ntime.sleep(120)\n"
    )
    code = (
        "import sys\nfrom megl_core.remote.torchrun import Nodes, run_processes\n"
        "sys.exit(run_processes(sys.argv[1:], Nodes(2)).code)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(worker), str(tmp_path)])
    files = [tmp_path / "0", tmp_path / "1"]
    deadline = time.monotonic() + 90
    while not all(file.is_file() and file.read_text() == "ready" for file in files):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 143
    assert [file.read_text() for file in files] == ["saved", "saved"]
