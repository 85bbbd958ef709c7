"""A node listens to SIGTERM before it does anything that takes time."""

import signal
import socket
import subprocess
import sys

from tests.conftest import FRAMEWORKS


def test_no_framework_is_loaded_before_the_signal_is_listened_to() -> None:
    code = "import sys, megl_core.remote.node; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert FRAMEWORKS.isdisjoint(done.stdout.split())


def test_sigterm_ends_a_node_that_still_waits_for_its_exchange() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        storage = f'{{"endpoint_url": "http://127.0.0.1:{silent.getsockname()[1]}", "region": "here"}}'
        node = subprocess.Popen(
            [sys.executable, "-m", "megl_core.remote.node", "s3://bucket/team", "0" * 16, storage],
            env={"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
        )
        connection, _ = silent.accept()  # it asks, and gets no answer
        with connection:
            node.send_signal(signal.SIGTERM)
            assert node.wait(60) == 128 + signal.SIGTERM
