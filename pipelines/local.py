"""Runs a pipeline with kfp.local, in a process of its own.

    python -m pipelines.local <request.json>

KFP prints a lot and knows no other way to say how a step fares; a process of its own keeps that in a log
file, can be stopped as a whole, and leaves its caller free to draw.
"""

import json
import os
import signal
import sys
from pathlib import Path

from kfp import local

from megl_core.processes import when_parent_ends
from pipelines.catalog import find_pipeline


def main(request_file: Path) -> None:
    """Run the pipeline that the request describes; its last step leaves the result beside the request."""
    request = json.loads(request_file.read_text())
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=request["pipeline_root"],
        enable_caching=request["cache"],
        raise_on_error=True,
    )
    find_pipeline(request["pipeline"]).build(None)(**request["arguments"])


if __name__ == "__main__":
    when_parent_ends(lambda: os.killpg(os.getpgrp(), signal.SIGTERM))  # and its steps
    main(Path(sys.argv[1]))
