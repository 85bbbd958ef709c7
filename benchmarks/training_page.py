"""The page of the benchmark of the training: docs/benchmarks/training.md."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import lines, paragraphs, table
from benchmarks.timing import Spread, ratios, spread_of
from benchmarks.training_gpu import BATCH, COMPILED, EAGER, PEAK, SIDE
from benchmarks.training_loader import CACHE_MB, STEP
from benchmarks.training_maps import AUTOGRAD, CLOSED, LOOP
from benchmarks.training_plan import VARIANTS
from benchmarks.training_runs import FULL
from benchmarks.training_steps import CACHED, DECODER, LOADING, OPERATORS, PLAIN
from megl_core.files import write_text

STEP_BAR, DECODER_BAR, LOADER_BAR = 1.10, 1.05, 2.0
OVERHEAD_SHARE, OVERHEAD_SECONDS = 0.10, 10.0
VISUAL, WRITING = "visual + consistency", "visual + consistency + decoder"

PIPELINE_STEPS = (
    "ingest",
    "validate",
    "pack",
    "train",
    "evaluate",
    "gate",
    "register",
    "promote",
    "report",
)
RUNS = {
    "start/s": "time to first step, s",
    "evaluation/images/s": "evaluation, images/s",
    "writing/tokens/s": "writing, tokens/s",
    "training, plain classifier/memory": "training without our terms, peak memory, MB",
    "training, all terms/memory": "training with all terms, peak memory, MB",
    "evaluation/memory": "evaluation, peak memory, MB",
    "writing/memory": "writing, peak memory, MB",
}

_PACE = "pace, "
Measured = Mapping[str, Sequence[float]]

_INTRODUCTION = """\
What training costs beyond a plain classifier, and what runs around it cost. What is compared was measured
in turns within one run, so that a machine that is busy, slow or hot at the time disturbs both sides alike:
the ratios are what counts, the absolute times are those of one machine. Numbers are medians with quartiles
in brackets. Steps, maps and batches are timed in processor time of one thread, all else by the clock."""

_STEPS = """\
The *plain classifier* is the same encoder and head with cross-entropy, without anything of ours around it;
*classifier* is our training step with all terms but cross-entropy off. A step is forward and backward pass,
clipping and AdamW on a batch of 32 that is at hand. The bar of the decoder is the sum of the plain
classifier's step and of the decoder's own, on features and maps that are given but get gradients; what the
visual and consistency terms cost has to fit into it as well. What our terms add are many small operators on
maps of a few cells: in a profile none of them stands out, and as their number does not depend on the
encoder, their share falls as it grows."""

_NEAR = """\
**Near the bar.** At 32 px the decoder's ratio lies close to its bar. Four runs of its steps on 2026-11-29,
the last being that of the table, found medians from 1.030 to 1.041, with quartiles from 1.019 to 1.060: a run
may miss it. Nothing is near at 64 px."""

_MAPS = """\
Features of 2048 channels and 7 x 7 cells, the last stage of a ResNet-50, batch 16, 10 classes. Each
candidate pools them, applies the head and makes the map of each label; *and backward* sends a loss on the
map back to features and head. Grad-CAM stands here where it is cheapest: it differentiates the head alone.
With any layer between features and logits, its second gradient goes through that layer too. The loop adds
up channel by channel, for the whole batch at once; with a backward pass each of its slices makes a gradient
as large as the features."""

_RUNS = """\
Each number from processes of its own, which hold nothing else; memory is the most that a process held, the
frameworks' code included. Evaluation has its defaults: classification, maps, faithfulness, rationales,
intervals and the gallery. It leaves out METEOR, BERTScore and CLIPScore, which need Java or other models.
Rationales are greedy, in batches of up to 128. The time to the first step is that of the command `megl
train`, all its imports, model and data included, until it tells of progress, which is up to 0.2 s late."""

_PIPELINE = """\
One run of `make demo` in an empty workspace. A step's own work is what its function takes, imports of the
frameworks included; outside of it are the start of the pipeline and of a process for each step, KFP's own
work between two steps, and the end."""

_LOADER = f"""\
**Pace.** Images a second by the clock, in turns: of the step with all terms on batches that are at hand, and
of the loader alone, no image kept in memory, with one worker thread and with two. Two workers have two cores
only where nobody else wants them.

**Memory.** One epoch over packed images of 32 pixels, three sentences each and a tenth of them with a mask,
prepared by two workers while one batch is used. The larger sets name the shards of the smallest several
times, so that all rows are real ones; each naming is a shard of its own. *Own* is memory that the process
allocated: with Python and torch, with the model and all that a run begins with, and at most while it
iterated; what a run knows of all rows before it begins, such as the regions of their rationales, takes about
1 kB a row. *Mapped* are pages of libraries and of the index, which holds all rows but their images (about 0.6
kB a row here, however large the images are) and which the kernel may take back at any time. With *cached*,
`train.cache_mb` is {CACHE_MB}; it counts pixels, to which each kept image adds less than 1 kB."""

_SCALING = """\
`megl train` with all terms, in one process and in two through torchrun and gloo: the same global batch of
32, the rate of the steps from the first progress that was told to the last, validation included. Efficiency
is the second rate over twice the first: below 0.5, two processes are slower than one. They need two idle
cores to show what they can do. Each batch norm is a meeting of the processes, at which one waits while the
other is kept off its core; where the machine was busy, this says nothing of one that is not."""

_GPU = f"""\
Steps on batches of {BATCH} images of {SIDE} pixels that are at hand, in bfloat16, each with the GPU to
itself; encoders of the published shapes with random weights. *All terms* holds all our losses and the small
decoder, over the *plain classifier* in the same mode. FLOP are those of a step without compilation, its
backward pass included and a fused GRU left out; MFU is their rate over what the maker tells for dense
bfloat16."""
_NO_GPU = """\
Not measured: none was at hand. `make benchmark-training ARGS="--only gpu"` does it, for a ResNet-50 and a
ViT-B/16 at 224 pixels; its code ran on a CPU only."""


def write_page(sections: Mapping[str, Any], path: Path) -> None:
    """Write what there is of the page, in Markdown."""
    write_text(path, page(sections))


def page(sections: Mapping[str, Any]) -> str:
    """The page as far as its sections were measured."""
    measured = {name: section["measured"] for name, section in sections.items()}
    parts = {
        "steps": ("A step", _steps),
        "maps": ("The map", _maps),
        "runs": ("Runs", _runs),
        "pipeline": ("The pipeline's overhead", _pipeline),
        "loader": ("The loader", _loader),
        "scaling": ("Two processes", _scaling),
        "gpu": ("A step on a GPU", _gpu),
    }
    written = [
        paragraphs(f"## {title}", _provenance(sections[name]), part(measured[name]))
        for name, (title, part) in parts.items()
        if name in measured
    ]
    if "gpu" not in measured:
        written.append(paragraphs("## A step on a GPU", _NO_GPU))
    return (
        paragraphs(
            "# Benchmark of the training",
            "<!-- Written by benchmarks/training.py; changes go there. -->",
            _INTRODUCTION,
            "All numbers are in [training.json](../../benchmarks/results/training.json); command: "
            "`make benchmark-training`.",
            "## The bars",
            table(["bar", "measured", "met"], bars(measured)),
            *written,
        )
        + "\n"
    )


def bars(measured: Mapping[str, Measured]) -> list[list[str]]:
    """What was asked for, what was found, and whether that is enough."""
    rows = []
    for model in _models(measured.get("steps", {})):
        found = _StepTimes(measured["steps"], model)
        more, writing = spread_of(found.over_plain(VISUAL)), spread_of(found.over_sum())
        rows += [
            [
                f"{model}: step with visual and consistency terms over the plain classifier's, "
                f"at most {STEP_BAR:.2f}",
                _ratio(more),
                _verdict(more, STEP_BAR),
            ],
            [
                f"{model}: step with the decoder too over classifier's and decoder's, "
                f"at most {DECODER_BAR:.2f}",
                _ratio(writing),
                _verdict(writing, DECODER_BAR),
            ],
        ]
    for model, pace in _paces(measured.get("loader", {})).items():
        loading = spread_of(ratios(pace["2"], pace[STEP]))
        rows.append(
            [
                f"{model}: loader with two workers, no cache, over a step's need, at least {LOADER_BAR:.0f}",
                _ratio(loading),
                _verdict(loading, LOADER_BAR, at_most=False),
            ]
        )
    if "pipeline" in measured:
        outside, total = (measured["pipeline"][name][0] for name in ("outside", "total"))
        rows.append(
            [
                f"pipeline: outside of steps below {OVERHEAD_SHARE:.0%} or {OVERHEAD_SECONDS:.0f} s",
                f"{outside:.1f} s of {total:.1f} s, {outside / total:.1%}",
                _yes(outside < OVERHEAD_SECONDS or outside < OVERHEAD_SHARE * total),
            ]
        )
    return rows


class _StepTimes:
    """The times of one model's steps, and what they are compared with, repetition by repetition."""

    def __init__(self, measured: Measured, model: str) -> None:
        prefix = f"{model}/"
        self.times = {
            name.removeprefix(prefix): values for name, values in measured.items() if name.startswith(prefix)
        }

    def over_plain(self, name: str) -> list[float]:
        return ratios(self.times[name], self.times[PLAIN])

    def over_sum(self) -> list[float]:
        pairs = zip(self.times[PLAIN], self.times[DECODER], strict=True)
        return ratios(self.times[WRITING], [classifier + decoder for classifier, decoder in pairs])

    def loader_pace(self, loading: str) -> list[float]:
        """Batches that are loaded in the time of a step with all terms."""
        return ratios(self.times["all terms"], self.times[loading])


def _steps(measured: Measured) -> str:
    parts = [_STEPS, _NEAR]
    for model in _models(measured):
        found = _StepTimes(measured, model)
        steps = [
            [
                name,
                _milliseconds(found.times[name]),
                _ratio(spread_of(found.over_plain(name))),
                f"{found.times[OPERATORS + name][0]:.0f}",
            ]
            for name in (PLAIN, *VARIANTS, DECODER)
        ]
        loads = [
            [name, _milliseconds(found.times[name]), _ratio(spread_of(found.loader_pace(name)))]
            for name in (LOADING, CACHED)
        ]
        parts += [
            f"### Model of {model}",
            table(["step", "ms", "over the plain classifier's", "operators"], steps),
            table(["a batch of the loader, one thread", "ms", "batches in a step of all terms"], loads),
        ]
    return paragraphs(*parts)


def _maps(measured: Measured) -> str:
    rows = []
    for name in (CLOSED, AUTOGRAD, LOOP):
        row = [name]
        for form in ("map", "map and backward"):
            values, closed = measured[f"{name}/{form}"], measured[f"{CLOSED}/{form}"]
            row += [_milliseconds(values), _ratio(spread_of(ratios(values, closed)))]
        rows.append(row)
    columns = ["map", "ms", "over the closed form", "and backward, ms", "over the closed form"]
    return paragraphs(_MAPS, table(columns, rows))


def _runs(measured: Measured) -> str:
    rows = [
        [label, _spread(measured[name], 1e-6 if name.endswith("memory") else 1.0)]
        for name, label in RUNS.items()
    ]
    return paragraphs(_RUNS, table(["number", "measured"], rows))


def _pipeline(measured: Measured) -> str:
    rows = [
        [name, _first(measured, f"step/{name}"), _first(measured, f"before/{name}")]
        for name in PIPELINE_STEPS
    ]
    total, outside = measured["total"][0], measured["outside"][0]
    between = sum(values[0] for name, values in measured.items() if name.startswith("before/"))
    return paragraphs(
        _PIPELINE,
        table(["step", "own work, s", "since the step before, s"], rows),
        f"In all {total:.1f} s, of which {outside:.1f} s ({outside / total:.1%}) outside of the steps: "
        f"{between:.1f} s between steps, {outside - between:.1f} s before the first and after the last.",
    )


def _loader(measured: Measured) -> str:
    paces = [
        [model, *(_spread(pace[who]) for who in (STEP, "1", "2"))]
        + [_ratio(spread_of(ratios(pace[workers], pace[STEP]))) for workers in ("1", "2")]
        for model, pace in _paces(measured).items()
    ]
    rows = []
    names = {name.partition("/")[0] for name in measured if not name.startswith(_PACE)}
    for name in sorted(names, key=lambda name: (", cached" in name, int(name.partition(",")[0]))):
        number = {
            key: measured[f"{name}/{key}"][0]
            for key in ("start", "before", "anonymous", "mapped", "images/s")
        }
        rows.append(
            [
                name,
                *(f"{number[key] / 1e6:.0f}" for key in ("start", "before", "anonymous")),
                f"{(number['anonymous'] - number['before']) / 1e6:+.0f}",
                f"{number['mapped'] / 1e6:.0f}",
                f"{number['images/s']:.0f}",
            ]
        )
    return paragraphs(
        _LOADER,
        table(
            [
                "model",
                "step, images/s",
                "one worker",
                "two workers",
                "one over the step",
                "two over the step",
            ],
            paces,
        ),
        table(
            [
                "images",
                "own at start, MB",
                "own before, MB",
                "own at most, MB",
                "difference, MB",
                "mapped, MB",
                "images/s",
            ],
            rows,
        ),
    )


def _paces(measured: Measured) -> dict[str, dict[str, Sequence[float]]]:
    """Images a second by model, of the step and of the loader with so many workers."""
    paces: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in measured.items():
        if name.startswith(_PACE):
            model, _, who = name.removeprefix(_PACE).partition("/")
            paces.setdefault(model, {})[who] = values
    return paces


def _scaling(measured: Measured) -> str:
    rows = []
    for model in _models(measured):
        one, two = measured[f"{model}/1"], measured[f"{model}/2"]
        gains = [rate / 2 for rate in ratios(two, one)]
        rows.append([model, _spread(one), _spread(two), _ratio(spread_of(gains))])
    columns = ["model", "one process, images/s", "two processes, images/s", "efficiency"]
    return paragraphs(_SCALING, table(columns, rows))


def _gpu(measured: Measured) -> str:
    counted = f"/{PLAIN}/FLOP"
    encoders = [name.removesuffix(counted) for name in measured if name.endswith(counted)]
    rows = []
    for encoder, mode, step in itertools.product(encoders, (EAGER, COMPILED), (PLAIN, FULL)):
        name = f"{encoder}/{step}/{mode}"
        rates = measured[f"{name}/images/s"]
        plain = spread_of(measured[f"{encoder}/{PLAIN}/{mode}/images/s"]).median
        work = spread_of(rates).median * measured[f"{encoder}/{step}/FLOP"][0]
        share = f"{work / measured[PEAK][0]:.0%}" if PEAK in measured else "-"
        memory = f"{measured[f'{name}/memory'][0] / 1e9:.1f}"
        over = plain / spread_of(rates).median
        rows.append([encoder, step, mode, _spread(rates), f"{over:.3f}", f"{work / 1e12:.1f}", share, memory])
    columns = ["encoder", "step", "mode", "images/s", "over the plain one's", "TFLOP/s", "MFU", "memory, GB"]
    return paragraphs(_GPU, table(columns, rows))


def _models(measured: Measured) -> list[str]:
    """The models of names such as `32 px/classifier`."""
    return list(dict.fromkeys(name.partition("/")[0] for name in measured))


def _provenance(section: Mapping[str, Any]) -> str:
    """When and where, by what code, and how busy the machine was when it began."""
    machine, repetitions = section["machine"], max(map(len, section["measured"].values()))
    cores = machine["cores"] + " cores" + (f", {machine['gpu']}" if "gpu" in machine else "")
    busy = section["load"] > 0.5
    return lines(
        f"- {section['finished']}, {machine['processor']}, {cores}, torch {machine['torch']}, "
        f"python {machine['python']}, code {section['code'][:12]}",
        f"- repetitions: {repetitions}; "
        + (
            f"busy machine: {section['load']:.1f} processes wanted a core beside it"
            if busy
            else "idle machine"
        ),
    )


def _first(measured: Measured, name: str) -> str:
    return f"{measured[name][0]:.1f}" if name in measured else "-"


def _milliseconds(values: Sequence[float]) -> str:
    return _spread(values, 1e3)


def _spread(values: Sequence[float], scale: float = 1.0) -> str:
    """`12.3 (12.1 to 12.6)`."""
    found = spread_of([value * scale for value in values])
    digits = 0 if found.median >= 100 else 1 if found.median >= 10 else 2
    return f"{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def _ratio(found: Spread) -> str:
    digits = 3 if found.median < 3 else 1
    return f"{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def _verdict(found: Spread, bar: float, *, at_most: bool = True) -> str:
    """Whether a bar is met; where it lies between the quartiles, another run may say otherwise."""
    if found.low <= bar <= found.high:
        return "within the spread"
    return _yes((found.median < bar) == at_most)


def _yes(is_met: bool) -> str:
    return "yes" if is_met else "**no**"
