from pathlib import Path

from benchmarks.cells import Run
from benchmarks.photo_cells import DATASETS, photo_cells, photo_runs

SETS = {dataset.name: Path(dataset.name) for dataset in DATASETS}


def run(name: str, seed: int = 0) -> Run:
    cell = next(cell for cell in photo_cells() if cell.name == name)
    return cell.run(seed, SETS[cell.dataset])


def test_every_run_has_a_name_and_a_configuration_of_its_own() -> None:
    cells = photo_cells()
    assert len({cell.name for cell in cells}) == len(cells)
    runs = photo_runs(cells, SETS)
    assert len({run.config_digest for run in runs}) == len(runs)
    assert len(runs) == 18 * 3 + 4 * 2 + 2 * 2


def test_headline_comes_before_ablations_and_each_seed_by_seed() -> None:
    runs = photo_runs(photo_cells(), SETS)
    order = [(run.cell.group == "ablation", run.seed) for run in runs]
    assert order == sorted(order)
    assert [run.cell.name for run in runs[:2]] == ["eth80_scenes/cross-entropy@0", "eth80_scenes/megl@10"]


def test_a_seed_decides_weights_and_which_masks_stay() -> None:
    tenth = run("eth80_scenes/megl@10", seed=2)
    assert tenth.config.train.seed == 2
    assert tenth.source.settings(tenth.config)["photos"] | {"split": None} == {
        "set": "eth80_scenes",
        "share": 10,
        "seed": 2,
        "split": None,
    }


def test_what_methods_are_supervised_with() -> None:
    def weights(name: str) -> tuple[float, ...]:
        config = run(f"eth80_scenes/{name}").config
        objective = config.objective
        return (
            *(objective.visual, objective.text, objective.consistency, objective.region),
            *(config.train.mix_backgrounds, config.train.annotated_quota),
        )

    assert weights("cross-entropy@0")[:5] == (0, 0, 0, 0, 0)
    assert weights("text-only@0")[:5] == (0, 3, 0, 0, 0)
    assert weights("text-lexicon@0")[:5] == (0, 3, 0, 1, 0)
    assert weights("energy@10") == (2, 0, 0, 0, 0, 0.5)
    assert weights("specification@10") == (1, 1, 1, 0, 0, 0.5)
    assert weights("megl@10") == (2, 3, 1, 1, 1, 0.5)
    assert weights("without-mix@10") == (2, 3, 1, 1, 0, 0.5)
    assert weights("without-region@10") == (2, 3, 1, 0, 1, 0.5)
    assert weights("without-text@10") == (2, 0, 1, 1, 1, 0.5)
    assert weights("without-visual@10") == (0, 3, 1, 1, 1, 0.5)
    assert weights("without-consistency@10") == (2, 3, 0, 1, 1, 0.5)
    assert weights("megl-defaults@100") == (1, 3, 1, 0.3, 0.5, 0.25)
    assert run("eth80_scenes/text-lexicon@0").config.objective.region_source == "lexicon"


def test_only_takes_a_pattern_of_the_shell() -> None:
    names = [cell.name for cell in photo_cells() if cell.fits("*/energy@*")]
    assert names == ["eth80_scenes/energy@100", "eth80_scenes/energy@10", "magnetic_tile/energy@100"]
