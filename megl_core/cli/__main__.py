"""`python -m megl_core.cli`, for launchers such as torchrun."""

from megl_core.cli import main

main()
