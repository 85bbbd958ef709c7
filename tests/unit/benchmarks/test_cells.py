from benchmarks.cells import (
    BASE,
    ENERGY,
    FEW_SEEDS,
    SEEDS,
    Cell,
    _settled,
    chosen_cells,
    fixed_cells,
    grid,
    run_of,
    runs_of,
    select,
)


def test_a_run_has_one_seed_for_its_data_and_its_weights() -> None:
    run = run_of(Cell("headline", "megl", 5, {"objective.visual": 3.0}, SEEDS), 12)
    assert run.config.data.scenes.seed == run.config.train.seed == 12
    assert run.config.data.scenes.mask_share == 0.05
    assert run.config.objective.visual == 3.0
    assert run.config.train.epochs == BASE["train.epochs"] == 12


def test_a_new_setting_counts_only_where_it_is_used() -> None:
    run = run_of(Cell("headline", "megl", 5, {}, SEEDS), 12)
    tree = run.config.model_dump(mode="json")["train"]
    first = {name: value for name, value in tree.items() if name != "checkpoint_seconds"}
    first["checkpoint_every"] = 1000
    known = {"on_nan": "stop", "accumulate": 1, "checkpoint_seconds": 5.0}
    assert _settled(first | known) == _settled(first)
    assert _settled(first | {"accumulate": 2}) == _settled(first) | {"accumulate": 2}
    assert _settled(first | {"learning_rate": 0.5}) != _settled(first)


def test_development_seeds_are_not_used() -> None:
    used = {seed for cell in fixed_cells(full=True) for seed in cell.seeds}
    assert used == {10, 11, 12, 13, 14}


def test_every_cell_is_a_configuration_and_has_a_name_of_its_own() -> None:
    for full in (False, True):
        cells = fixed_cells(full)
        assert len({cell.name for cell in cells}) == len(cells)
        assert runs_of(cells)


def test_the_short_form_is_part_of_the_full_one_and_fits_an_hour_of_one_core() -> None:
    full = {run.config_digest for run in runs_of(fixed_cells(full=True))}
    short = runs_of(fixed_cells(full=False))
    assert {run.config_digest for run in short} <= full
    assert sum(run.source.seconds(run.config) for run in short) < 50 * 60


def test_headline_runs_come_first_and_seed_by_seed() -> None:
    runs = runs_of(fixed_cells(full=False))
    groups = [run.cell.group for run in runs]
    assert groups == sorted(groups, key=["headline", "ablation", "grid"].index)
    seeds = [run.seed for run in runs if run.cell.group == "headline"]
    assert seeds == sorted(seeds)
    assert runs[0].cell.method == "cross-entropy"


def test_cells_that_mean_the_same_share_a_run() -> None:
    same = [
        Cell("headline", "energy", 10, ENERGY, (10,)),
        Cell(
            "grid",
            "energy",
            10,
            {**ENERGY, "objective.alignment": "energy", "objective.visual": 1.0},
            (10, 11),
        ),
    ]
    assert [(run.cell.group, run.seed) for run in runs_of(same)] == [("headline", 10), ("grid", 11)]


def test_the_grid() -> None:
    cells = grid(full=True)
    points = {(cell.method, cell.share) for cell in cells}
    assert points == {
        (method, share)
        for method in ("rrr", "haics", "gradia", "res_g", "res_l", "energy", "megl")
        for share in (100, 10)
    }
    gradia = [cell for cell in cells if (cell.method, cell.share) == ("gradia", 100)]
    configs = [run_of(cell, 10).config for cell in gradia]
    assert sorted({config.objective.visual for config in configs}) == [0.1, 1, 10, 100, 1e3, 1e4]
    assert {config.model.saliency for config in configs} == {"plain", "centered"}
    assert {config.objective.alignment for config in configs} == {"gradia"}
    assert {config.objective.text for config in configs} == {0.0}
    rrr = [cell.note for cell in cells if (cell.method, cell.share) == ("rrr", 100)]
    assert len(rrr) == 6  # its loss does not read the map


def test_choices_are_run_with_more_seeds_and_for_longer() -> None:
    (point, *_) = grid(full=True)
    baseline, converged = chosen_cells([point], full=True)
    assert (baseline.seeds, baseline.overrides) == (FEW_SEEDS, point.overrides)
    assert run_of(converged, 10).config.train.epochs == 36
    (short,) = chosen_cells([point], full=False)
    assert short.seeds == (10,)


def test_only_takes_a_pattern_of_the_shell() -> None:
    names = [cell.name for cell in select(fixed_cells(full=True), "headline/megl@*")]
    assert sorted(names) == sorted(f"headline/megl@{share}" for share in (100, 50, 20, 10, 5, 2, 0))
