"""A search space is checked against the configuration before anything is trained."""

from pathlib import Path

import pytest

from megl_core.config import Config, changed
from megl_core.errors import ConfigError
from megl_core.tuning.space import Choices, Range, read_space


def written(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_ranges_and_choices_are_read_with_their_kinds(tmp_path: Path) -> None:
    space = read_space(
        written(
            tmp_path,
            "parameters:\n  objective.visual: {low: 0.1, high: 10, log: true}\n"
            "  train.epochs: {low: 4, high: 16, step: 4}\n  model.saliency: {choices: [centered, plain]}\n",
        ),
        Config(),
    )
    visual, epochs, saliency = space.parameters.values()
    assert isinstance(visual, Range)
    assert visual.log
    assert not visual.is_whole
    assert isinstance(epochs, Range)
    assert epochs.is_whole
    assert saliency == Choices(choices=["centered", "plain"])


def test_the_score_is_the_weighted_sum_of_validation_metrics(tmp_path: Path) -> None:
    text = "score: {val_accuracy: 2, val_energy_in_mask: 0.5}\nparameters: {train.epochs: {low: 1, high: 2}}"
    space = read_space(written(tmp_path, text), Config())
    assert space.score_of({"val_accuracy": 0.5, "val_energy_in_mask": 0.2, "loss": 9.0}) == pytest.approx(1.1)
    with pytest.raises(ConfigError, match="val_energy_in_mask"):
        space.score_of({"val_accuracy": 0.5})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("parameters: {objective.visul: {low: 0, high: 1}}", "visul"),
        ("parameters: {objective.visual: {low: -1, high: 1}}", "visual"),
        ("parameters: {model.saliency: {choices: [centered, blurred]}}", "saliency"),
        ("parameters: {data.scenes.seed: {low: 0, high: 1}}", "cannot be searched"),
        ("parameters: {train.epochs: {low: 5, high: 5}}", r"train\.epochs: low must be less than high\n"),
        (
            "parameters: {train.epochs: {low: 5}}",
            r"settings:\n  parameters\.train\.epochs\.high: Field required\n",
        ),
        ("parameters: {train.epochs: {choices: [1]}}", r"epochs\.choices: List should have at least 2"),
        ("parameters: {train.epochs: {low: 4, high: 15, step: 4}}", "train.epochs.*do not end at high"),
        ("parameters: {train.learning_rate: {low: 0, high: 1, log: true}}", "begins above 0"),
        ("parameters: {train.epochs: {low: 1, high: 2}}\nscore: {test_accuracy: 1}", "test_accuracy"),
        ("parameters: {}", "parameters"),
        ("- a list", "mapping"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_space(written(tmp_path, text), Config())


def test_a_changed_configuration_keeps_all_other_settings() -> None:
    start = Config()
    result = changed(start, ["train.epochs=3"])
    assert result.train.epochs == 3
    assert result.train.model_copy(update={"epochs": start.train.epochs}) == start.train
    assert result.objective == start.objective
