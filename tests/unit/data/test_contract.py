import json
from pathlib import Path

import jsonschema
import pytest

from megl_core.config import ScenesConfig
from megl_core.data import contract
from megl_core.data.contract import (
    BadRow,
    Sample,
    declared_labels,
    parse_line,
    read_annotations,
)
from megl_core.data.scenes import scenes
from megl_core.errors import DataError
from tests.conftest import shared_data
from tests.unit.data.build import row, write_rows

SCHEMA = json.loads((Path(contract.__file__).parent / "annotation.schema.json").read_text())


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def test_generated_rows_fit_the_schema(validator: jsonschema.Draft202012Validator) -> None:
    config = ScenesConfig(num_train=8, num_val=4, num_test=4)
    for scene in scenes(config):
        validator.validate(scene.sample.to_json())


@pytest.mark.parametrize("name", ["eth80_scenes", "magnetic_tile", "ucm_captions"])
def test_real_rows_fit_the_schema(name: str, validator: jsonschema.Draft202012Validator) -> None:
    for line in (shared_data(name) / "annotations.jsonl").read_text().splitlines()[:100]:
        validator.validate(json.loads(line))


BAD = {
    "no id": {"id": None},
    "empty label": {"label": ""},
    "number as image": {"image": 3},
    "empty mask": {"mask": ""},
    "one text": {"explanations": "It has ears."},
    "split that is a path": {"split": "../train"},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_schema_and_reader_refuse_the_same_rows(
    change: dict[str, object], validator: jsonschema.Draft202012Validator
) -> None:
    value = row(0, **change)
    assert not validator.is_valid(value)
    assert isinstance(parse_line(json.dumps(value).encode(), 1), BadRow)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "images/../../x.png"])
def test_schema_refuses_unsafe_paths(path: str, validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid(row(0, image=path))
    assert not validator.is_valid(row(0, mask=path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "\xff"}', "not valid UTF-8 at byte 8"),
        (b'{"id": ', "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"id": "a", "image": "b", "label": "c", "area": NaN}', "NaN is no JSON number"),
        (b'{"id": "\\ud800", "image": "b", "label": "c"}', "not usable JSON"),
        (b'{"id": "a", "image": "b", "label": "c", "label": "d"}', "key 'label' occurs twice"),
        (b"[" * 100_000, "not usable JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not usable JSON"),
    ],
    ids=["utf-8", "cut", "list", "nan", "surrogate", "twice", "deep", "long number"],
)
def test_bad_lines_say_why(line: bytes, reason: str) -> None:
    bad = parse_line(line, 7)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert str(bad).startswith("annotations.jsonl line 7: ")


def test_rows_come_with_their_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "annotations.jsonl").write_text(f"{json.dumps(row(0))}\n\nnot json\n{json.dumps(row(1))}\n")
    numbered = list(read_annotations(tmp_path))
    assert [line for line, _ in numbered] == [1, 3, 4]
    assert [type(item) for _, item in numbered] == [Sample, BadRow, Sample]


def test_free_columns_survive(tmp_path: Path) -> None:
    write_rows(tmp_path, [row(0, split="train", group="g", polar=22, nested={"a": [1]})])
    _, sample = next(read_annotations(tmp_path))
    assert isinstance(sample, Sample)
    assert sample.extra == {"polar": 22, "nested": {"a": [1]}}
    assert sample.to_json() == row(0, split="train", group="g", polar=22, nested={"a": [1]})


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "annotations.jsonl").write_text(content)
    with pytest.raises(DataError, match="is empty"):
        list(read_annotations(tmp_path))


def test_a_folder_without_annotations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations.jsonl"):
        list(read_annotations(tmp_path))


@pytest.mark.parametrize(
    ("content", "labels"), [('{"labels": ["b", "a"]}', ["b", "a"]), ('{"labels": null}', None), ("{}", None)]
)
def test_declared_labels(tmp_path: Path, content: str, labels: list[str] | None) -> None:
    (tmp_path / "dataset.json").write_text(content)
    assert declared_labels(tmp_path) == labels


@pytest.mark.parametrize(
    "content", ["[]", '{"labels": "cat"}', '{"labels": ["a", "a"]}', '{"labels": [1]}', "{"]
)
def test_wrong_declarations_are_errors(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError):
        declared_labels(tmp_path)
