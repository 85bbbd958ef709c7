"""The section of the method's page on searches: who was tuned how, and what came of it."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.cells import BASE, Cell
from benchmarks.findings import Findings
from benchmarks.markdown import lines, paragraphs, spread, table
from benchmarks.searches import (
    EPOCHS,
    FRESH_SEEDS,
    RATE,
    SEED,
    SHARE,
    TRIALS,
    WEIGHT,
    Searched,
    SearchResults,
    searches,
)
from benchmarks.selection import choose
from benchmarks.tables import accuracy_table, is_plain, label, maps_table, named, names
from megl_core.tuning.space import Range

_PROTOCOL = """\
Each method had {trials} trials of `megl tune` of {epochs} epochs, with {share} % masks and seed {seed}:
first its settings as they are (MEGL's are those that it was developed to, the others have weight 1), then
points drawn at random (so few trials are within the estimator's random start), all from the same ranges:
the weight of its loss {weight}, the learning rate {rate}, for MEGL also the weight of regions. From the
sixth trial on, one below the median at the same epoch is stopped. The best trial is that with the highest
validation accuracy plus energy in mask (its score, 200 at most); *validation* images are like the
training images, all of them have a mask, and no shifted image is looked at. The best setting was then
trained for {final} epochs with seeds {fresh}, which no choice has seen. Command: `make benchmark-method
ARGS="--full --only 'tuned/*'"`; every search is a line of
[method-searches.jsonl](../../benchmarks/results/method-searches.jsonl)."""
_LEFT_OUT = """\
Text only gets the same images and looks at none of their masks. Cross-entropy has no weight and was left
out. Seconds are wall time, whatever else the machine did. **What is not fair here**: seven random points
over four decades of weights are a coarse search. A loss whose best weight lies far from 1, as the grid
says of most rivals, needs luck in it; MEGL and energy, which begin at theirs, do not."""


def tuned_section(findings: Findings, searched: SearchResults) -> str:
    """What the searches chose and what it is worth; empty where none has ended."""
    found = [(search, searched.find(search)) for search in searches()]
    ended = [one for _, one in found if one is not None]
    if not ended:
        return ""
    cells = findings.measured("tuned")
    missing = [named(search.method) for search, one in found if one is None]
    return paragraphs(
        "## All tuned alike",
        _protocol(),
        f"Every map is centered. {_plain_maps(findings)}{_LEFT_OUT}",
        f"Not run: {', '.join(missing)}." if missing else "",
        _searches_table(ended),
        accuracy_table(findings, cells) if cells else "",
        maps_table(findings, cells) if cells else "",
        _where_megl_loses(findings, cells),
    )


def _protocol() -> str:
    return _PROTOCOL.format(
        trials=TRIALS,
        epochs=EPOCHS,
        share=SHARE,
        seed=SEED,
        weight=_range(WEIGHT),
        rate=_range(RATE),
        final=BASE["train.epochs"],
        fresh=f"{FRESH_SEEDS[0]} to {FRESH_SEEDS[-1]}",
    )


def _plain_maps(findings: Findings) -> str:
    """What the same score would have chosen of the grid's plain maps."""
    plain = [cell for cell in findings.measured("grid") if cell.share == 10 and is_plain(cell)]
    rivals = [choice for choice in choose(plain, findings.find) if choice.cell.method != "megl"]
    if not rivals:
        return ""
    found = ", ".join(
        f"{label(choice.cell)} {100 * choice.record.metrics['ood']['accuracy']:.1f} %" for choice in rivals
    )
    return (
        "To let a search choose the plain map as well would mislead it: of the grid's points with the plain "
        f"map and 10 % masks, those with the best score have an accuracy out of distribution of {found}. "
    )


def _range(values: Range) -> str:
    return f"{values.low:g} to {values.high:g}"


def _searches_table(found: Sequence[Searched]) -> str:
    rows = [
        [
            named(one.method),
            ", ".join(f"{name.partition('.')[2]} {value:.3g}" for name, value in one.best.items()),
            f"{100 * one.score:.1f}",
            f"{100 * one.trials[0]['score']:.1f}",
            ", ".join(
                f"{count} {state}" for state, count in Counter(trial["state"] for trial in one.trials).items()
            ),
        ]
        for one in found
    ]
    return table(["method", "best setting", "its score", "score as it was", "trials"], rows)


def _where_megl_loses(findings: Findings, cells: Sequence[Cell]) -> str:
    """Who has a higher mean than MEGL in what, whatever the spread."""
    reference = next((cell for cell in cells if cell.method == "megl"), None)
    if reference is None:
        return ""
    compared = {
        "accuracy on test images": ("test", "accuracy"),
        "OOD": ("ood", "accuracy"),
        "conflict": ("conflict", "accuracy"),
        "energy in mask on OOD images": ("ood", "energy_in_mask"),
        "the pointing game on OOD images": ("ood", "pointing_game"),
    }
    sentences = []
    for title, where in compared.items():
        own = findings.summary(reference, *where)
        others = [(cell, findings.summary(cell, *where)) for cell in cells]
        ahead = [cell for cell, other in others if own and other and other.mean > own.mean]
        if ahead:
            sentences.append(f"- {title}: {names(ahead)} above MEGL {spread(own)}")
    if not sentences:
        return "MEGL has the highest mean in everything that is compared here."
    return paragraphs("Where another mean is higher than MEGL's, whatever the spread:", lines(*sentences))
