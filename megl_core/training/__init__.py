"""Training: the loop, its schedule, its checkpoints, and one or many processes."""

from megl_core.training.loop import Tracker, TrainResult, check_places, train

__all__ = ["Tracker", "TrainResult", "check_places", "train"]
