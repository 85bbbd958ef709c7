"""The training step of the pipeline: packed data in, a model folder out.

A run is a pure function of its data, configuration and seed: batches, learning rate, leak and dropout
are derived from the step's number. A run that was stopped, wherever it was, ends with the weights of one
that was not.
"""

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from megl_core.config import ModelConfig, ObjectiveConfig, StorageConfig, TrainConfig
from megl_core.data.loading import Batch
from megl_core.data.streaming import open_packed
from megl_core.errors import ConfigError, DataError, MeglError, UnavailableError
from megl_core.files import (
    atomic_directory,
    refuse_folder,
    refuse_to_replace_others,
    sha256_tree,
    write_json,
)
from megl_core.memory import keep_freed_memory
from megl_core.progress import Reporter, SilentReporter, get_reporter
from megl_core.training.checkpoint import (
    CheckpointWriter,
    check,
    held,
    newest_first,
    restore,
    take_snapshot,
)
from megl_core.training.distributed import Process, process_group
from megl_core.training.means import Means
from megl_core.training.monitor import check_progress
from megl_core.training.profiling import trace
from megl_core.training.schedule import one_cycle
from megl_core.training.setup import Parts, Settings, build
from megl_core.training.sharding import clip_gradients, gather_parameters, replicate
from megl_core.training.speed import Speed
from megl_core.training.step import Gradients, restore_buffers, to_device
from megl_core.training.stopping import StopRequest, leave, stop_requests
from megl_core.training.watchdog import Watchdog

TRAINING_FILE = "training.json"
_MAX_NAMED = 64
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
    data: Path | str,
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
    profile: Path | None = None,
    saved: Callable[[Path], None] | None = None,
    storage: StorageConfig | None = None,
) -> TrainResult | None:
    """Train MEGL on packed data, in a folder or on S3, and write the model folder `output` in one piece.

    While the run lasts its checkpoints lie in `checkpoints` (None: `<output>.checkpoints`), in a folder
    named after its data, its settings and `code`, the code's digest. A run that agrees in all of these goes
    on from there unless `resume` is off, on as many processes as it likes. SIGTERM, SIGHUP and Ctrl-C save
    the run after the step that they meet and end it as they usually do: with 128 + the signal's number.

    Args:
        profile: a file for a Chrome trace of a few steps.
        saved: is called with each checkpoint's folder when it is complete, on the main process, in a thread.
        storage: how S3 is reached, and what this machine keeps of it; None: the defaults.

    Returns:
        The result on the main process, None on the others.

    Raises:
        ConfigError: `output` has no name, beside which checkpoints could lie.
        DataError: there is nothing to train on.
        MeglError: something else is in the way of `output` or `profile`.
        MeglError: loss or gradient is not finite, where the message names the images, or an epoch's number.
        UnavailableError: another process died or got stuck; the message names it.
    """
    check_places(output, profile)
    torch.set_num_threads(config.num_threads)
    settings = Settings(model, objective, config)
    with (
        keep_freed_memory(),
        process_group(config.device, config.stall_seconds) as process,
        open_packed(data, storage or StorageConfig()) as files,
    ):
        parts = build(files, settings, process, code)
        root = checkpoints or output.with_name(output.name + ".checkpoints")
        run = Run(
            parts, settings, process, root / parts.fingerprint[:16], reporter or get_reporter(), tracker
        )
        process.meet("built")
        with run.alone():
            if resume:
                run.resume()
            else:
                run.restart()
            run.fit(profile, saved)
            result = run.finish(output) if process.is_main else None
        process.meet("finished")
        return result


def check_places(output: Path, profile: Path | None) -> None:
    """Say before the training, not after it, that its results cannot be written there.

    Raises:
        ConfigError: `output` has no name, beside which checkpoints could lie.
        MeglError: something else than a model is at `output`, or a folder at `profile`.
    """
    if output.name in ("", ".."):
        raise ConfigError(
            "the model needs a folder of its own: its checkpoints lie beside it",
            where=str(output),
            fix="name a folder: --output model",
        )
    refuse_to_replace_others(output, TRAINING_FILE)
    if profile is not None:
        refuse_folder(profile)


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
        self.announce = reporter.message  # for what any process may have to say
        self.reporter = reporter if process.is_main else SilentReporter()
        self.tracker = tracker if process.is_main else None
        self.trained = parts.step
        self.optimizer = parts.optimizer
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.steps_per_epoch = parts.batches.sampler.steps_per_epoch
        self.history: list[Row] = []
        self.step = 0
        self.means = Means()
        self.skipped_in_row = 0
        self.speed = Speed(self.config.batch_size)

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold this very run's checkpoints; one that was killed a moment ago may still be writing there.

        Raises:
            UnavailableError: another training does not let go of them.
        """
        if not self.process.is_main:
            yield
            return
        with held(self.checkpoints, self.announce):
            yield

    def resume(self) -> None:
        """Go on from the newest checkpoint of this very run that can be read, if there is one."""
        name = self.process.from_main("resumed", self._newest() if self.process.is_main else None)
        if not name:
            return
        if not (self.checkpoints / name).is_dir():
            raise UnavailableError(
                f"this machine does not have the checkpoint {name}, from which the main process goes on",
                where=str(self.checkpoints),
                fix="let all machines see the same checkpoints, or start the run again",
            )
        saved = restore(self.checkpoints / name, self.trained, self.optimizer)
        self.step, self.history = saved["step"], saved["history"]
        self.means = Means(saved["sums"], saved["counted"], saved["skipped"])
        self.skipped_in_row = saved["skipped_in_row"]
        self.reporter.message(f"resuming at step {self.step} of {self.total_steps}")

    def restart(self) -> None:
        """Forget the checkpoints of this very run."""
        if self.process.is_main:
            for checkpoint in newest_first(self.checkpoints):
                shutil.rmtree(checkpoint, ignore_errors=True)
        self.process.meet("restarted")

    def fit(self, profile: Path | None = None, saved: Callable[[Path], None] | None = None) -> None:
        """Train until the last step or a signal."""
        module: nn.Module = self.trained if self.process.world == 1 else replicate(self.trained)
        gradients = Gradients(module, self.trained, self.config)
        if self.tracker is not None:
            self.tracker.log_params(self.settings.to_json())
        for row in self.history:  # of a resumed run: its curves are whole wherever they are logged
            self._log(row)
        main = profile if self.process.is_main else None
        with (
            stop_requests() as stop,
            CheckpointWriter(self.checkpoints, self.config.keep_checkpoints, saved) as writer,
            Watchdog(self.process, self.config.stall_seconds, self.announce) as watchdog,
            trace(main) as profiled,
        ):
            loop = _Loop(self, gradients, writer, watchdog, stop, profiled)
            try:
                loop.run()
            except RuntimeError as error:
                if problem := watchdog.explain():
                    raise problem from error
                raise
        if main is not None and not main.exists():
            self.reporter.message("no profile: there were too few steps")
        gather_parameters(self.trained)

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
        return TrainResult(output, sha256_tree(output), self.history[-1])

    def learning_rate(self, step: int, peak: float) -> float:
        return one_cycle(step, self.total_steps, peak, self.config.warmup)

    def end_epoch(self, tick: Callable[[], None]) -> Row:
        """Complete the history with the epoch that ends here.

        Raises:
            MeglError: one of its numbers is not finite.
        """
        speed = self.speed.of_epoch()
        row = {
            "epoch": self.step // self.steps_per_epoch,
            "step": self.step,
            **self.means.share(),
            "learning_rate": self.learning_rate(self.step - 1, self.config.learning_rate),
        }
        if self.parts.validation is not None:
            rank, world = self.process.rank, self.process.world
            row |= check_progress(self.trained.model, self.parts.validation, rank, world, tick)
        _require_finite(row)
        self.means = Means()
        self.history.append(row)
        self._log(row, speed)
        self.speed.start()
        return row

    def state(self) -> dict[str, Any]:
        """Of a checkpoint, beside its tensors; every process must call it."""
        return {
            "history": list(self.history),
            "processes": self.process.world,
            "skipped_in_row": self.skipped_in_row,
            **self.means.state(),
        }

    def _newest(self) -> str | None:
        for folder in newest_first(self.checkpoints):
            try:
                check(folder)
            except DataError as error:
                self.reporter.message(f"{error.what}; trying the checkpoint before it")
                continue
            return folder.name
        return None

    def _log(self, row: Row, speed: float = math.nan) -> None:
        if self.tracker is not None:
            metrics = {name: value for name, value in row.items() if name != "step"}
            if math.isfinite(speed):
                metrics["images_per_second"] = speed
            self.tracker.log_metrics(metrics, int(row["step"]))


def _require_finite(row: Row) -> None:
    """Refuse an epoch whose last step left weights from which no numbers come."""
    if bad := [name for name, value in row.items() if not math.isfinite(value)]:
        raise MeglError(
            f"not finite after step {row['step']}: {', '.join(bad)}",
            where=f"the end of epoch {row['epoch']}",
            fix="lower train.learning_rate",
        )


class _Loop:
    """The steps of a run, from where it stands."""

    def __init__(
        self,
        run: Run,
        gradients: Gradients,
        writer: CheckpointWriter,
        watchdog: Watchdog,
        stop: StopRequest,
        profiled: Callable[[], None],
    ) -> None:
        self._run = run
        self._config = run.config
        self._process = run.process
        self._gradients = gradients
        self._writer = writer
        self._watchdog = watchdog
        self._stop = stop
        self._profiled = profiled
        self._signal = 0  # that some process received

    def run(self) -> None:
        run = self._run
        run.trained.train()
        with (
            contextlib.closing(run.parts.batches.between(run.step, run.total_steps)) as batches,
            run.reporter.bar("training", run.total_steps) as bar,
        ):
            bar.advance(run.step)
            run.speed.start()
            while run.step < run.total_steps:
                self._watchdog.at("loading", run.step)
                batch = next(batches)
                self._watchdog.at("computing", run.step)
                is_due = self._step(batch)
                run.step += 1
                ends_epoch = run.step % run.steps_per_epoch == 0
                run.speed.count()
                bar.advance(1, **self._shown(is_last=ends_epoch))
                if ends_epoch:
                    self._end_epoch()
                self._profiled()
                if self._signal:
                    self._save_and_leave()
                if is_due and run.step < run.total_steps:
                    self._save()

    def _step(self, batch: Batch) -> bool:
        """Train on a batch; returns whether a checkpoint is due."""
        run = self._run
        for group in run.optimizer.param_groups:
            group["lr"] = run.learning_rate(run.step, group["initial_lr"])
        skips = self._config.on_nan == "skip"
        buffers = [buffer.clone() for buffer in run.trained.buffers()] if skips else []
        images, targets = to_device(batch, self._process.device)
        run.optimizer.zero_grad(set_to_none=True)
        terms = self._gradients.compute(images, targets, run.step / run.total_steps, self._seed)
        norm = clip_gradients(run.parameters, self._config.clip_norm)
        loss_is_bad, norm_is_bad, is_due, stop = self._agree(terms["loss"], norm)
        self._signal = int(stop)
        if not (loss_is_bad or norm_is_bad):
            run.optimizer.step()
            run.means.add(terms)
            run.skipped_in_row = 0
        elif skips and run.skipped_in_row < self._config.max_skipped:
            restore_buffers(run.trained, buffers)
            run.means.skip()
            run.skipped_in_row += 1
        else:
            self._refuse(batch, terms["loss"], "loss" if loss_is_bad else "gradient")
        return bool(is_due)

    def _agree(self, loss: Tensor, norm: Tensor) -> list[float]:
        """Of any process: whether loss and gradient are bad, whether a checkpoint is due, and a signal."""
        bad = torch.stack([~loss.isfinite(), ~norm.isfinite()]).float()
        is_due = self._process.is_main and self._writer.age >= self._config.checkpoint_seconds
        return self._process.agree(bad, [float(is_due), float(self._stop.number)])

    def _refuse(self, batch: Batch, loss: Tensor, what: str) -> None:
        """Name the images of the processes whose own loss is bad; where none is, all of the step."""
        found = self._process.gather((not bool(loss.isfinite()), batch.ids))
        ids = [name for is_bad, names in found if is_bad for name in names]
        ids = ids or [name for _, names in found for name in names]
        more = f" and {len(ids) - _MAX_NAMED} more" if len(ids) > _MAX_NAMED else ""
        fix = "lower train.learning_rate, or look at these images"
        if self._config.on_nan == "stop":
            fix += "; train.on_nan=skip goes on without such steps"
        raise MeglError(
            f"the {what} is not finite at step {self._run.step}"
            + (f", nor in the {self._run.skipped_in_row} steps before" if self._run.skipped_in_row else ""),
            where="batch " + ", ".join(ids[:_MAX_NAMED]) + more,
            fix=fix,
        )

    def _end_epoch(self) -> None:
        run = self._run
        self._watchdog.at("validating", run.step)
        row = run.end_epoch(lambda: self._watchdog.at("validating", run.step))
        run.trained.train()
        self._watchdog.log(f"epoch {row['epoch']:.0f}: loss {row.get('loss', math.nan):.4g}")

    def _save_and_leave(self) -> None:
        self._save()
        self._writer.wait()
        with contextlib.suppress(RuntimeError):  # they meet at the launcher, which may be gone
            self._process.meet("stopped")
        self._run.reporter.message(f"stopped by a signal; saved at step {self._run.step}")
        leave(self._signal)

    def _save(self) -> None:
        """Hand a copy of the run to the writer; every process takes part."""
        run = self._run
        self._watchdog.at("saving", run.step)
        state = run.state()
        if self._process.is_main or self._config.shard != "none":
            snapshot = take_snapshot(run.trained, run.optimizer, run.step, state)
            if self._process.is_main:
                self._writer.submit(snapshot)
        self._watchdog.log(f"checkpoint at step {run.step}")

    def _shown(self, *, is_last: bool) -> dict[str, Any]:
        """What stands beside the progress bar, now and then: to read a loss is to wait for the device."""
        run = self._run
        if not (is_last or run.speed.is_due()):
            return {}
        return run.means.shown() | run.speed.shown(run.total_steps - run.step)

    def _seed(self, part: int) -> None:
        """Dropout differs between steps, processes and parts; a resumed run repeats it."""
        sequence = np.random.SeedSequence([self._config.seed, self._run.step, self._process.rank, part])
        self._process.seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
