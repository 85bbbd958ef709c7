"""All gates of registered versions, in a real MLflow registry: truly better, truly worse, and unproven."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from typer.testing import CliRunner

from megl_core.cli.models import app
from megl_core.config import Config, EvaluationConfig, GateConfig, GateRule, PromotionConfig, RegistryConfig
from megl_core.errors import ConfigError, DataError, GateError
from megl_core.evaluation import evaluate
from megl_core.files import read_json, sha256_file, write_json
from megl_core.provenance.signing import load_signer, write_key_pair
from megl_core.registry import promotion
from megl_core.registry.fetching import artifacts_of
from megl_core.registry.gate import GateRow
from megl_core.registry.models import Stage, champion, promote, register
from megl_core.registry.promotion import Verdict, judge
from megl_core.registry.tracking import start_run
from tests.integration.conftest import SmallModel

MakeModel = Callable[..., SmallModel]

NO_WORSE = GateRule(metric="primary.accuracy", min=0.5, max_drop=0.02)
BETTER = GateRule(metric="primary.accuracy", min_gain=0.0)
LABELS = ("round", "boxy", "pointed", "crossed")


class Registry:
    """A registered model in a store."""

    def __init__(self, store: str, name: str, scratch: Path) -> None:
        self.store, self.name = store, name
        config = RegistryConfig(tracking_uri=store)
        with start_run(config, scratch, system_metrics=False) as tracker:
            self.run_id = tracker.run_id

    def add(self, model: SmallModel, *, production: bool = False, **options: object) -> int:
        version = model.register(self.name, self.store, self.run_id, **options).version
        if production:
            promote(self.name, version, Stage.PRODUCTION, self.store, reason="a test", force=True)
        return version

    def judge(
        self,
        version: int,
        *rules: GateRule,
        data: Path | None = None,
        promotion: PromotionConfig | None = None,
        public_key: Path | None = None,
    ) -> Verdict:
        config = Config(
            gate=GateConfig(rules=list(rules or (NO_WORSE,))),
            promotion=promotion or PromotionConfig(),
            registry=RegistryConfig(public_key=str(public_key) if public_key else None),
            evaluation=EvaluationConfig(gallery=1, max_texts=0, faithfulness_samples=0),
        )
        return judge(self.name, version, config, self.store, data)

    def stored(self, version: int, artifact: str) -> Path:
        """The file behind an artifact of a SQLite registry."""
        client = MlflowClient(self.store, self.store)
        location = artifacts_of(client, client.get_model_version(self.name, str(version)))
        return Path(download_artifacts(f"{location}/{artifact}", tracking_uri=self.store))


def rows(verdict: Verdict) -> dict[str, GateRow]:
    """The last row of each gate."""
    return {row.metric: row for row in verdict.rows}


@pytest.fixture
def registered_as(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")


@pytest.fixture
def registry(sqlite_uri: str, registered_as: str, tmp_path: Path) -> Registry:
    return Registry(sqlite_uri, registered_as, tmp_path)


def test_the_better_one_passes_and_the_worse_one_does_not(
    store: str, registered_as: str, make_model: MakeModel, tmp_path: Path
) -> None:
    registry = Registry(store, registered_as, tmp_path)
    first = registry.add(make_model(0, accuracy=0.90, samples=1000), production=True)
    better = registry.add(make_model(1, accuracy=0.93, samples=1000))
    worse = registry.add(make_model(2, accuracy=0.87, samples=1000))

    verdict = registry.judge(worse, NO_WORSE, BETTER)
    assert not verdict.passed
    assert verdict.champion == first
    assert [row.passed for row in verdict.rows] == [True, False, False, True, True]
    with pytest.raises(GateError, match="did not pass"):
        promote(registry.name, worse, Stage.PRODUCTION, store, reason="hope", verdict=verdict)

    verdict = registry.judge(better, NO_WORSE, BETTER)
    assert [row.passed for row in verdict.rows] == [True] * 5
    row = rows(verdict)["test.accuracy"]
    assert (row.value, row.champion) == (0.93, 0.90)
    assert row.low is not None
    assert row.high is not None
    assert 0 < row.low < 0.03 < row.high
    promote(registry.name, better, Stage.PRODUCTION, store, reason="better", verdict=verdict)

    # And the other way: the champion of before is now the worse one.
    verdict = registry.judge(first, NO_WORSE)
    assert verdict.champion == better
    assert not verdict.passed


def test_a_difference_that_may_be_noise_is_no_gain_and_no_loss(
    registry: Registry, make_model: MakeModel
) -> None:
    """Two of 1000 images more: 0.002, and the interval of two rare events begins at 0."""
    registry.add(make_model(0, accuracy=0.900, samples=1000), production=True)
    version = registry.add(make_model(1, accuracy=0.902, samples=1000))
    gain = registry.judge(version, BETTER)
    assert gain.failed == "test.accuracy: more than 0 above the champion"
    assert registry.judge(version, NO_WORSE).passed


def test_a_loss_within_the_allowance_needs_samples_enough_to_be_sure(
    registry: Registry, make_model: MakeModel
) -> None:
    """0.015 below, 0.02 allowed: 0.015 +- 0.017 with 200 images, 0.015 +- 0.0024 with 10,000."""
    registry.add(make_model(0, accuracy=0.900, samples=200), production=True)
    few = registry.add(make_model(1, accuracy=0.885, samples=200))
    assert not registry.judge(few, NO_WORSE).passed
    registry.add(make_model(2, accuracy=0.900, samples=10_000), production=True)
    many = registry.add(make_model(3, accuracy=0.885, samples=10_000))
    assert registry.judge(many, NO_WORSE).passed


def test_the_first_version_meets_absolute_bounds_validation_and_provenance(
    registry: Registry, make_model: MakeModel
) -> None:
    model = make_model(accuracy=0.95)
    verdict = registry.judge(registry.add(model), NO_WORSE)
    assert verdict.champion is None
    assert [(row.metric, row.passed, row.note) for row in verdict.rows] == [
        ("test.accuracy", True, ""),
        ("test.accuracy", True, "no champion yet"),
        ("validation", True, ""),
        ("provenance", True, "no signature was checked"),
    ]
    assert verdict.compared == {
        "data_digest": "d" * 64,
        "model_digest": model.digest,
        "evaluation_digest": sha256_file(model.evaluation),
        "champion_model_digest": None,
        "champion_evaluation_digest": None,
    }
    assert not registry.judge(1, GateRule(metric="primary.accuracy", min=0.96)).passed


def test_other_test_bytes_are_not_compared(registry: Registry, make_model: MakeModel) -> None:
    registry.add(make_model(0, data="a" * 64), production=True)
    version = registry.add(make_model(1, data="b" * 64))
    verdict = registry.judge(version)
    row = rows(verdict)["comparison"]
    assert not row.passed
    assert "version 1 in Production was evaluated on other data" in row.note
    assert "--data" in row.note
    assert verdict.compared == {}
    result = CliRunner().invoke(
        app, ["gates", registry.name, str(version), "--tracking-uri", registry.store, "--json"]
    )
    assert result.exit_code == GateError.exit_code
    assert json.loads(result.stdout)["passed"] is False


@pytest.mark.slow
def test_both_are_evaluated_on_the_data_that_are_given(
    registry: Registry, make_model: MakeModel, packed: Path, tmp_path: Path
) -> None:
    old, new = make_model(0, data="a" * 64, labels=LABELS), make_model(1, data="b" * 64, labels=LABELS)
    registry.add(old, production=True)
    version = registry.add(new)
    rule = GateRule(metric="primary.accuracy", max_drop=1.0)
    verdict = registry.judge(version, rule, data=packed)
    config = EvaluationConfig(gallery=1, max_texts=0, faithfulness_samples=0)
    ours, theirs = (
        evaluate(model.folder, packed, config, tmp_path / f"again-{model.digest}") for model in (new, old)
    )
    row = rows(verdict)["test.accuracy"]
    assert (row.value, row.champion) == (ours.metrics["test"]["accuracy"], theirs.metrics["test"]["accuracy"])
    assert row.low is not None
    assert verdict.passed
    assert verdict.compared["data_digest"] == ours.data_digest
    with pytest.raises(DataError):
        registry.judge(version, rule, data=tmp_path)


@pytest.mark.slow
def test_an_evaluation_of_another_way_is_made_anew_for_both(
    registry: Registry, make_model: MakeModel, packed: Path, tmp_path: Path
) -> None:
    """On the same bytes as its own, but neither its settings nor the champion's are those of now."""
    models = [make_model(seed, labels=LABELS) for seed in (0, 1)]
    config = EvaluationConfig(gallery=1, max_texts=0, faithfulness_samples=0)
    for model, method in zip(models, "mn", strict=True):
        made = evaluate(model.folder, packed, config, tmp_path / f"evaluated-{method}").folder
        report = read_json(made / "evaluation.json") | {"method_digest": method * 64}
        model.evaluation.with_name("predictions.parquet").write_bytes(
            (made / "predictions.parquet").read_bytes()
        )
        write_json(model.evaluation, report)
    registry.add(models[0], production=True)
    version = registry.add(models[1])
    rule = GateRule(metric="primary.accuracy", max_drop=1.0)
    assert "in another way" in registry.judge(version, rule).failed
    verdict = registry.judge(version, rule, data=packed)
    assert verdict.passed
    assert verdict.compared["evaluation_digest"] != sha256_file(models[1].evaluation)


def test_a_verdict_is_about_the_champion_that_was_compared(
    registry: Registry, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody puts a better version into Production between the comparison and the verdict."""
    first = registry.add(make_model(0, accuracy=0.80), production=True)
    version = registry.add(make_model(1, accuracy=0.85))
    best = registry.add(make_model(2, accuracy=0.99))
    compare = promotion.compare

    def slow_compare(*arguments: object) -> object:
        promote(registry.name, best, Stage.PRODUCTION, registry.store, reason="meanwhile", force=True)
        return compare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion, "compare", slow_compare)
    verdict = registry.judge(version)
    assert (verdict.passed, verdict.champion) == (True, first)
    with pytest.raises(GateError, match="Production changed"):
        promote(registry.name, version, Stage.PRODUCTION, registry.store, reason="x", verdict=verdict)
    in_production = champion(registry.name, registry.store)
    assert in_production is not None
    assert in_production.version == best


def test_a_version_of_an_older_megl_lacks_validation_and_provenance(
    registry: Registry, make_model: MakeModel
) -> None:
    verdict = registry.judge(registry.add(make_model(), statement=None))
    failed = {row.metric: row.note for row in verdict.rows if not row.passed}
    assert failed.keys() == {"validation", "provenance"}
    assert all("train a model with this one" in note for note in failed.values())


@pytest.mark.parametrize(
    ("report", "note"),
    [
        ({"passed": False, "digest": "d" * 64}, "the validation failed"),
        ({"passed": True, "digest": "e" * 64}, "other data than the model was trained on"),
        ({"digest": "d" * 64}, "the validation failed"),
    ],
)
def test_the_validation_is_of_the_training_data_and_passed(
    registry: Registry, make_model: MakeModel, report: dict[str, object], note: str
) -> None:
    model = make_model()
    write_json(model.validation, report)
    row = rows(registry.judge(registry.add(model)))["validation"]
    assert not row.passed
    assert note in row.note


def test_incomplete_provenance_names_what_is_missing(registry: Registry, make_model: MakeModel) -> None:
    model = make_model()
    statement = read_json(model.statement)
    statement["predicate"]["runDetails"]["byproducts"] = []
    write_json(model.statement, statement)
    row = rows(registry.judge(registry.add(model)))["provenance"]
    assert (row.passed, row.note) == (False, "missing: the training run")


@pytest.mark.parametrize("artifact", ["evaluation.json", "predictions.parquet", "validation.json"])
def test_a_report_that_was_edited_fails_by_name(
    registry: Registry, make_model: MakeModel, artifact: str
) -> None:
    """Also where the tag was edited to fit: the provenance knows better."""
    version = registry.add(make_model())
    path = registry.stored(version, artifact)
    path.write_bytes(path.read_bytes() + b" ")
    client = MlflowClient(registry.store, registry.store)
    client.set_model_version_tag(registry.name, str(version), "megl.evaluation_digest", sha256_file(path))
    verdict = registry.judge(version)
    assert not verdict.passed
    assert f"{artifact} of version 1" in rows(verdict)["provenance"].note


def test_a_champion_whose_evaluation_was_edited_is_not_compared_with(
    registry: Registry, make_model: MakeModel
) -> None:
    """Nobody gets past the champion by making it look bad."""
    registry.add(make_model(0, accuracy=0.95), production=True)
    version = registry.add(make_model(1, accuracy=0.80))
    path = registry.stored(1, "evaluation.json")
    path.write_text(path.read_text().replace("0.95", "0.55"))
    client = MlflowClient(registry.store, registry.store)
    client.set_model_version_tag(registry.name, "1", "megl.evaluation_digest", sha256_file(path))
    row = rows(registry.judge(version))["comparison"]
    assert not row.passed
    assert "evaluation.json of version 1" in row.note


def test_a_signature_is_demanded_where_a_key_is_known(
    registry: Registry, make_model: MakeModel, tmp_path: Path
) -> None:
    private = tmp_path / "key.pem"
    public = write_key_pair(private)
    unsigned = registry.add(make_model(0))
    signed = registry.add(make_model(1), signer=load_signer(str(private)))
    demanded = PromotionConfig(require_signature=True)

    assert registry.judge(unsigned).passed
    row = rows(registry.judge(signed, promotion=demanded))["provenance"]
    assert (row.passed, "registry.public_key" in row.note) == (False, True)
    row = rows(registry.judge(unsigned, public_key=public))["provenance"]
    assert (row.passed, "not signed" in row.note) == (False, True)
    row = rows(registry.judge(signed, promotion=demanded, public_key=public))["provenance"]
    assert (row.passed, row.note) == (True, "")


def test_without_predictions_points_are_compared_and_the_row_says_so(
    registry: Registry, make_model: MakeModel
) -> None:
    first, second = make_model(0, accuracy=0.90), make_model(1, accuracy=0.89)
    reports = {"evaluation.json": first.evaluation}
    register(first.folder, reports, registry.name, registry.store, registry.run_id, statement=first.statement)
    promote(registry.name, 1, Stage.PRODUCTION, registry.store, reason="a test", force=True)
    row = rows(registry.judge(registry.add(second)))["test.accuracy"]
    assert (row.passed, row.low) == (True, None)
    assert "without an interval" in row.note


def test_what_does_not_exist_is_not_judged(registry: Registry, make_model: MakeModel) -> None:
    registry.add(make_model())
    with pytest.raises(ConfigError, match="no version 7"):
        registry.judge(7)
