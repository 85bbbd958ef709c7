"""The configuration tree: defaults, params.yaml, overrides, and errors that name the key."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from megl_core.config import (
    Bound,
    Config,
    GateRule,
    ScenesConfig,
    SplitConfig,
    TrainConfig,
    load_config,
    parse,
)
from megl_core.errors import ConfigError
from tests.conftest import REPOSITORY


def test_params_yaml_holds_exactly_the_defaults() -> None:
    assert load_config(REPOSITORY / "params.yaml") == Config()


def test_params_yaml_is_what_the_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location("write_params", REPOSITORY / "scripts" / "write_params.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert (REPOSITORY / "params.yaml").read_text(encoding="utf-8") == generator.render(), "run `make params`"


def test_every_section_of_the_tree_stands_in_params_yaml() -> None:
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    for section in Config.model_fields:
        assert f"\n{section}:\n" in text


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.epochs=3", "train.epochs", 3),
        (" train.epochs =3", "train.epochs", 3),
        ("train.learning_rate=0.01", "train.learning_rate", 0.01),
        ("train.learning_rate=1e-3", "train.learning_rate", 0.001),
        ("train.compile=true", "train.compile", True),
        ("data.source=photos/all of them", "data.source", "photos/all of them"),
        ("data.source=null", "data.source", None),
        ("data.source=a=b", "data.source", "a=b"),
        ("data.labels=[round, boxy]", "data.labels", ["round", "boxy"]),
        ("model.backbone.widths=[8, 16, 32]", "model.backbone.widths", [8, 16, 32]),
        ("model.grounding.text_path='off'", "model.grounding.text_path", "off"),
        ("validation.mask_area={min: 0.01, max: 0.5}", "validation.mask_area.max", 0.5),
        ("validation.mask_area.severity=fail", "validation.mask_area.severity", "fail"),
        ("gate.rules=[]", "gate.rules", []),
    ],
)
def test_overrides_set_one_value_and_leave_the_rest(override: str, path: str, value: Any) -> None:
    found: Any = load_config(None, [override])
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value

    tree, default = load_config(None, [override]).model_dump(), Config().model_dump()
    section = path.partition(".")[0]
    assert {name for name in tree if tree[name] != default[name]} <= {section}


def test_overrides_come_after_the_file_and_the_last_one_counts(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  epochs: 5\n  batch_size: 8\n")
    config = load_config(params, ["train.epochs=6", "train.epochs=7"])
    assert (config.train.epochs, config.train.batch_size) == (7, 8)
    assert config.train.seed == TrainConfig().seed


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("# nothing set\n")
    assert load_config(tmp_path / "params.yaml") == Config()


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("trian.epochs=3", "train"),
        ("train.epoch=3", "train.epochs"),
        ("data.scenes.num_trian=3", "data.scenes.num_train"),
        ("model.grounding.bta=1", "model.grounding.beta"),
        ("epochs=3", "train.epochs"),
    ],
)
def test_an_unknown_key_names_the_nearest(override: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match="unknown key") as caught:
        load_config(None, [override])
    assert f"did you mean {nearest!r}" in str(caught.value)


def test_every_wrong_key_is_named_in_one_go(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  epochs: 0\n  warmup: 2\nnonsense_of_some_kind: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(params)
    message = str(caught.value)
    assert "train.epochs:" in message
    assert "(got 0)" in message
    assert "train.warmup:" in message
    assert "nonsense_of_some_kind: unknown key" in message
    assert str(params) in message
    assert caught.value.exit_code == 2


def test_a_wrong_setting_is_of_the_file_or_of_an_override(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  epochs: 3\n")
    for path, overrides, where in (
        (None, ["train.epochs=0"], "--set"),
        (params, ["train.epochs=0"], f"{params}, --set"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(path, overrides)
        assert caught.value.where == where


@pytest.mark.parametrize("override", ["train.epochs", "=3", ""])
def test_what_is_no_override_says_how_to_write_one(override: str) -> None:
    with pytest.raises(ConfigError, match=r"--set section\.key=value"):
        load_config(None, [override])


def test_a_value_is_no_section() -> None:
    with pytest.raises(ConfigError, match="train holds a value, not a section"):
        load_config(None, ["train=3", "train.epochs=3"])


@pytest.mark.parametrize("content", [b"train: [", b"- train", b"\xff\xfe\x00"])
def test_a_file_that_is_no_parameter_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load_config(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such parameter file"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_no_setting_is_infinite(value: str) -> None:
    with pytest.raises(ConfigError, match="finite"):
        load_config(None, [f"train.learning_rate={value}"])


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.epochs = 3  # type: ignore[misc]


def test_sections_check_what_their_fields_cannot() -> None:
    with pytest.raises(ConfigError, match="leave a share for training"):
        parse(SplitConfig, {"val": 0.5, "test": 0.5})
    with pytest.raises(ConfigError, match="needs min, max, max_drop or min_gain"):
        parse(GateRule, {"metric": "test.accuracy"})
    with pytest.raises(ConfigError, match="min is larger than max"):
        parse(Bound, {"min": 2, "max": 1})
    with pytest.raises(ConfigError, match="a label occurs twice"):
        load_config(None, ["data.labels=[a, b, a]"])
    assert parse(ScenesConfig, {"size": 64}).size == 64


@pytest.mark.parametrize("uri", ["https://me:s3cret@mlflow.org", "https://mlflow.org/?token=s3cret"])
def test_credentials_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match="keep credentials out") as caught:
        load_config(None, [f"registry.tracking_uri={uri}"])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("setting", ["train.seed=-1", "train.seed=4294967296", "data.scenes.seed=-2"])
def test_seeds_are_what_every_generator_takes(setting: str) -> None:
    with pytest.raises(ConfigError, match="seed"):
        load_config(None, [setting])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.source=https://ann:secret@git.example.org/a.git", "data.path=data"], "keep credentials out"),
        (["data.source=https://token@git.example.org/a.git", "data.path=data"], "keep credentials out"),
        (["data.source=ssh://git:secret@git.example.org/a.git", "data.path=data"], "keep credentials out"),
        (["data.source=https://git.example.org/a.git"], "name the folder that DVC tracks"),
        (["data.source=s3://bucket/birds", "data.path=data"], "a DVC repository"),
        (["data.source=birds", "data.revision=v1"], "set source and path too"),
        (["data.source=birds", "data.path=../data"], "stays inside"),
        (["data.source=birds", "data.path=/data"], "stays inside"),
        (["storage.dvc_remote=gs://bucket/birds"], "s3://bucket/prefix or a folder"),
        (["storage.dvc_remote=s3://key:secret@bucket/birds"], "keep credentials out"),
    ],
)
def test_a_source_or_a_remote_that_cannot_be_is_told_without_its_secret(
    overrides: list[str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(None, overrides)
    assert "secret" not in str(caught.value)


def test_the_user_of_ssh_is_no_secret() -> None:
    config = load_config(None, ["data.source=ssh://git@git.example.org/a.git", "data.path=data/birds"])
    assert config.data.source == "ssh://git@git.example.org/a.git"
