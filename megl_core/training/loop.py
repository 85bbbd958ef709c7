"""The training step of the pipeline: packed data in, a model folder out.

A run is a pure function of its data, configuration and seed: batches, learning rate, leak and dropout
are derived from the step's number. A checkpoint therefore holds weights and optimizer state alone, and a
run that was stopped ends with the weights of one that was not.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from megl_core.config import ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.data.loading import Batch
from megl_core.errors import DataError, MeglError
from megl_core.files import atomic_directory, sha256_tree, write_json
from megl_core.objectives.objective import Targets
from megl_core.objectives.reduce import reported_mean
from megl_core.progress import Bar, Reporter, SilentReporter, get_reporter
from megl_core.training.checkpoint import newest_first, restore, save_checkpoint
from megl_core.training.distributed import Process, process_group
from megl_core.training.monitor import check_progress
from megl_core.training.schedule import one_cycle
from megl_core.training.setup import Parts, Settings, build

TRAINING_FILE = "training.json"
Row = dict[str, float]


class Tracker(Protocol):
    """Where a run's numbers go, besides the model folder."""

    def log_params(self, params: Mapping[str, Any]) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the model's folder, the SHA-256 over its files, and the last epoch's numbers."""

    model: Path
    model_digest: str
    metrics: Row


def train(
    data: Path,
    output: Path,
    model: ModelConfig,
    objective: ObjectiveConfig,
    config: TrainConfig,
    *,
    tracker: Tracker | None = None,
    reporter: Reporter | None = None,
    resume: bool = True,
    checkpoints: Path | None = None,
    code: str = "",
) -> TrainResult | None:
    """Train MEGL on packed data and write the model folder `output` in one piece.

    While the run lasts its checkpoints lie in `checkpoints` (None: `<output>.checkpoints`), in a folder
    named after its data, its settings, its number of processes and `code`, the code's digest. A run
    that agrees in all of these goes on from there unless `resume` is off.

    Returns:
        The result on the main process, None on the others.

    Raises:
        DataError: there is nothing to train on.
        MeglError: the loss is no longer finite; the message names the batch.
    """
    torch.set_num_threads(config.num_threads)
    settings = Settings(model, objective, config)
    with process_group(config.device) as process:
        parts = build(data, settings, process, code)
        root = checkpoints or output.with_name(output.name + ".checkpoints")
        run = Run(
            parts, settings, process, root / parts.fingerprint[:16], reporter or get_reporter(), tracker
        )
        if resume:
            run.resume()
        else:
            run.restart()
        run.fit()
        return run.finish(output) if process.is_main else None


class Run:
    """One training run in one process."""

    def __init__(
        self,
        parts: Parts,
        settings: Settings,
        process: Process,
        checkpoints: Path,
        reporter: Reporter,
        tracker: Tracker | None,
    ) -> None:
        self.parts = parts
        self.settings = settings
        self.config = settings.train
        self.process = process
        self.checkpoints = checkpoints
        self.reporter = reporter if process.is_main else SilentReporter()
        self.tracker = tracker if process.is_main else None
        self.trained = parts.step
        self.optimizer = parts.optimizer
        self.steps_per_epoch = parts.batches.sampler.steps_per_epoch
        self.history: list[Row] = []
        self.step = 0
        self.speed = math.nan

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def resume(self) -> None:
        """Go on from the newest checkpoint of this very run that can be read, if there is one."""
        for folder in newest_first(self.checkpoints):
            try:
                self.step, self.history = restore(folder, self.trained, self.optimizer)
            except DataError as error:
                self.reporter.message(f"{error.what}; trying the checkpoint before it")
                continue
            self.reporter.message(f"resuming at step {self.step} of {self.total_steps}")
            return

    def restart(self) -> None:
        """Forget the checkpoints of this very run."""
        if self.process.is_main:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.process.barrier()

    def fit(self) -> None:
        """Train until the last step, a checkpoint every few epochs."""
        module: nn.Module = self.trained
        if self.process.world > 1:
            module = DistributedDataParallel(self.trained)
        if self.tracker is not None:
            self.tracker.log_params(self.settings.to_json())
        for row in self.history:  # of a resumed run: its curves are whole wherever they are logged
            self._log(row)
        with self.reporter.bar("training", self.total_steps) as bar:
            bar.advance(self.step)
            while self.step < self.total_steps:
                row = self._epoch(module, bar)
                self.history.append(row)
                self._log(row)
                self._checkpoint()

    def finish(self, output: Path) -> TrainResult:
        """Write the model folder and drop the checkpoints.

        Nothing in the folder tells of time or place: the same run gives the same digest again.
        """
        with atomic_directory(output, marker=TRAINING_FILE) as folder:
            self.trained.model.save(folder)
            write_json(
                folder / TRAINING_FILE,
                {
                    "checkpoints": self.parts.checkpoints,
                    "config": self.settings.to_json(),
                    "data_digest": self.parts.data_digest,
                    "history": self.history,
                    "processes": self.process.world,
                    "steps": self.step,
                    "torch": str(torch.__version__),
                },
            )
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run's checkpoints may lie beside ours
            self.checkpoints.parent.rmdir()
        return TrainResult(output, sha256_tree(output), self.history[-1])

    def _epoch(self, module: nn.Module, bar: Bar) -> Row:
        started = time.monotonic()
        first = self.step
        last = min(self.total_steps, (first // self.steps_per_epoch + 1) * self.steps_per_epoch)
        sums: dict[str, Tensor] = {}
        module.train()
        for batch in self.parts.batches.between(first, last):
            terms = self._train_step(module, batch)
            self.step += 1
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()
            bar.advance(1, **self._shown(sums, first, started))
        means = {name: float(reported_mean(total)) / (last - first) for name, total in sums.items()}
        self._require_finite(means)
        self.speed = (last - first) * self.config.batch_size / (time.monotonic() - started)
        return {
            "epoch": last // self.steps_per_epoch,
            "step": last,
            **means,
            "learning_rate": self._learning_rate(last - 1, self.config.learning_rate),
            **self._validate(),
        }

    def _train_step(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        device = self.process.device
        # Dropout differs from step to step and from process to process, and is the same after a resume.
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 4099 + self.process.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step, group["initial_lr"])
        targets = Targets(
            batch.labels.to(device),
            batch.masks.to(device),
            batch.has_mask.to(device),
            batch.tokens.to(device),
            None if batch.regions is None else batch.regions.to(device),
        )
        terms: dict[str, Tensor] = module(batch.images.to(device), targets, self.step / self.total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.clip_norm)
        if not torch.isfinite(norm):
            raise MeglError(
                f"the gradient is not finite at step {self.step}",
                where="batch " + ", ".join(batch.ids[:8]) + ("..." if len(batch.ids) > 8 else ""),
                fix="lower train.learning_rate, or look at these images",
            )
        self.optimizer.step()
        return terms

    def _learning_rate(self, step: int, peak: float) -> float:
        return one_cycle(step, self.total_steps, peak, self.config.warmup)

    def _shown(self, sums: dict[str, Tensor], first: int, started: float) -> dict[str, float]:
        done = self.step - first
        if done % 5:
            return {}
        speed = done * self.config.batch_size / (time.monotonic() - started)
        return {"loss": float(sums["loss"]) / done, "images/s": round(speed)}

    def _require_finite(self, means: Row) -> None:
        if wrong := [name for name, value in means.items() if not math.isfinite(value)]:
            raise MeglError(f"the loss is not finite: {', '.join(wrong)}", fix="lower train.learning_rate")

    def _validate(self) -> Row:
        if self.parts.validation is None or not self.process.is_main:
            return {}
        return check_progress(self.trained.model, self.parts.validation)

    def _log(self, row: Row) -> None:
        if self.tracker is not None:
            metrics = {name: value for name, value in row.items() if name != "step"}
            if row["step"] == self.step and math.isfinite(self.speed):
                metrics["images_per_second"] = self.speed
            self.tracker.log_metrics(metrics, int(row["step"]))

    def _checkpoint(self) -> None:
        epoch = self.step // self.steps_per_epoch
        if self.process.is_main and epoch % self.config.checkpoint_every == 0:
            save_checkpoint(
                self.checkpoints,
                self.trained,
                self.optimizer,
                step=self.step,
                history=self.history,
                keep=self.config.keep_checkpoints,
            )
        self.process.barrier()
