"""The one configuration tree: typed, validated, read from params.yaml, overridden by `--set a.b=c`.

Every step takes its own section, so that a change of one section reruns only what depends on it.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from megl_core.errors import ConfigError
from megl_core.redaction import redact

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Severity = Literal["fail", "warn", "off"]


def _holds_credentials(address: str) -> bool:
    """Whether a URL has a password, a token or a query in it; the user of ssh:// is none of these."""
    address = re.sub(r"^ssh://[^/:@]*@", "ssh://", address)
    return address != redact(address)


class Section(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- data ------------------------------------------------------------------------------------


class ScenesConfig(Section):
    """The procedural set: shapes on a noisy background with a class-coded texture patch as spurious cue."""

    num_train: int = Field(2400, ge=8)
    num_val: int = Field(300, ge=4)
    num_test: int = Field(600, ge=4)
    """Images of each of the splits `test`, `ood` and `conflict`."""
    size: int = Field(32, ge=24, le=512)
    """Width and height in pixels."""
    cue_correlation: Share = 0.95
    """How often the patch tells the class in `train`, `val` and `test`."""
    mask_share: Share = 0.10
    """Share of training images that keep their mask; sets of growing share are nested."""
    text_share: Share = 1.0
    """Share of training images that keep their rationales; nested likewise."""
    seed: Seed = 0


class SplitConfig(Section):
    """How rows without a declared split are divided: by group, stratified by label."""

    val: Share = 0.1
    test: Share = 0.2
    seed: Seed = 0

    @model_validator(mode="after")
    def _leave_training_data(self) -> "SplitConfig":
        if self.val + self.test >= 1.0:
            raise ValueError("val + test must leave a share for training")
        return self


class DataConfig(Section):
    """Where images come from."""

    name: str = Field("scenes", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The dataset's folder in the workspace."""
    importer: str = "procedural"
    """A name from `megl data import --help`."""
    source: str | None = None
    """What the importer reads: a folder, an s3:// folder, or with `path` a DVC repository or its URL."""
    path: str | None = None
    """The folder in that repository which DVC tracks, relative to the repository's root."""
    revision: str | None = None
    """Commit, branch or tag. None: the tip of the default branch; of a local repository, what lies there."""
    labels: list[str] | None = None
    """The labels that may occur; None: those the dataset declares, else those its training rows carry."""
    scenes: ScenesConfig = ScenesConfig()
    split: SplitConfig = SplitConfig()

    @field_validator("source")
    @classmethod
    def _hold_no_password(cls, source: str | None) -> str | None:
        if source is not None and _holds_credentials(source):
            raise ValueError(
                "keep credentials out of it: Git has its credential helpers and SSH keys, S3 its environment"
            )
        return source

    @field_validator("path")
    @classmethod
    def _stay_in_the_repository(cls, path: str | None) -> str | None:
        if path is not None and (not path.strip("/") or path.startswith("/") or ".." in path.split("/")):
            raise ValueError("path is relative to the repository's root and stays inside")
        return path

    @field_validator("labels")
    @classmethod
    def _name_each_label_once(cls, labels: list[str] | None) -> list[str] | None:
        if len(set(labels or ())) < len(labels or ()):
            raise ValueError("a label occurs twice")
        return labels

    @model_validator(mode="after")
    def _name_one_place(self) -> "DataConfig":
        is_s3 = (self.source or "").startswith("s3://")
        if self.path is not None and (self.source is None or is_s3):
            raise ValueError("path lies in a DVC repository: source names it by folder or Git URL")
        if self.path is None and "://" in (self.source or "") and not is_s3:
            raise ValueError("name the folder that DVC tracks in this repository: path")
        if self.revision is not None and self.path is None:
            raise ValueError("revision is of a DVC repository: set source and path too")
        return self


class Bound(Section):
    """An expectation's severity and its allowed range."""

    severity: Severity = "fail"
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _limit_something(self) -> "Bound":
        if self.severity != "off" and self.min is None and self.max is None:
            raise ValueError("a bound needs min or max, or severity: off")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is larger than max")
        return self


class ValidationConfig(Section):
    """Expectations over the manifest. `fail` stops the pipeline, `warn` is shown, `off` is skipped."""

    @model_validator(mode="before")
    @classmethod
    def _keep_default_limits(cls, tree: Any) -> Any:
        """`mask_area: {severity: fail}` changes the severity and keeps the limits."""
        if not isinstance(tree, Mapping):
            return tree
        merged = dict(tree)
        for name, value in tree.items():
            default = cls.model_fields[name].default if name in cls.model_fields else None
            if isinstance(default, Bound) and isinstance(value, Mapping):
                merged[name] = default.model_dump() | dict(value)
        return merged

    ids_unique: Severity = "fail"
    labels_declared: Severity = "fail"
    images_decode: Severity = "fail"
    image_side: Bound = Bound(min=16, max=16384)
    """Width and height in pixels."""
    masks_decode: Severity = "fail"
    mask_matches_image: Severity = "fail"
    mask_area: Bound = Bound(severity="warn", min=0.0005, max=0.95)
    """Marked share of the image; an empty or a full mask explains nothing."""
    missing_masks: Bound = Bound(severity="warn", max=0.99)
    """Share of training rows without a mask."""
    missing_texts: Bound = Bound(severity="warn", max=0.99)
    """Share of training rows without a rationale."""
    words_per_text: Bound = Bound(severity="warn", min=3, max=80)
    class_share: Bound = Bound(severity="warn", min=0.01, max=0.9)
    """Share of each label among the training rows."""
    exact_duplicates: Severity = "fail"
    """The same image bytes in two splits."""
    near_duplicates: Severity = "warn"
    """Two splits hold images whose perceptual hashes differ in at most `near_duplicate_bits`."""
    near_duplicate_bits: int = Field(2, ge=0, le=8)
    label_conflicts: Severity = "warn"
    """The same image bytes under two labels."""
    drift: Bound = Bound(severity="warn", max=0.2)
    """Population stability index against the reference manifest: labels, mask area, text length."""
    min_rows: int = Field(8, ge=1)
    """Fewer rows than these always fail."""
    max_offenders: int = Field(24, ge=1)
    """Offending rows that the report names, with their pictures, for each expectation."""


class PackConfig(Section):
    """How the packed dataset is laid out."""

    shard_mb: int = Field(256, ge=1)
    """Image and mask bytes in a shard, about."""


# --- method ----------------------------------------------------------------------------------

SaliencyKind = Literal["centered", "contrastive", "plain", "gradcam", "attention", "relevance"]
TextPath = Literal["both", "saliency", "features", "off"]
AlignmentKind = Literal["energy", "rrr", "haics", "gradia", "res_g", "res_l"]
ConsistencyKind = Literal["marginal", "class", "spatial"]
RegionSource = Literal["learned", "lexicon"]


class BackboneConfig(Section):
    """The image encoder."""

    name: Literal["small", "hf"] = "small"
    """small: a compact ResNet from scratch; hf: a checkpoint of ResNet, ConvNeXt, ViT, DINOv2 or CLIP."""
    widths: list[int] = [32, 64]
    """small: channels of each stage; every stage after the first halves the map's side."""
    depths: list[int] = [2, 2]
    """small: residual blocks of each stage."""
    stem_stride: Literal[1, 2, 4] = 2
    """small: 4 is the ImageNet stem; 1 and 2 are 3x3 stems for small images."""
    path: str | None = None
    """hf: a local folder, or a name on the hub."""
    pooling: Literal["mean", "checkpoint"] = "mean"
    """What the head reads: the mean of the cells, or the checkpoint's own summary (of a ViT: class token)."""
    trainable: Literal["all", "none"] | Annotated[int, Field(ge=1)] = "all"
    """What is trained of the encoder: all, none, or its last n stages (of a transformer: blocks)."""

    @model_validator(mode="after")
    def _name_the_checkpoint(self) -> "BackboneConfig":
        if (self.name == "hf") != (self.path is not None):
            raise ValueError("backbone.path names the checkpoint of backbone.name=hf; small has none")
        if self.name == "small" and self.pooling == "checkpoint":
            raise ValueError("backbone.pooling=checkpoint needs a checkpoint: backbone.name=hf")
        return self


class GroundingConfig(Section):
    """Saliency-Driven Textual Grounding (SDTG)."""

    text_path: TextPath = "both"
    """What the text loss may move: features and saliency, one of them, or neither."""
    temperature: float = Field(0.5, gt=0)
    """tau of the softmax over standardised saliency."""
    leak_start: float = Field(0.5, gt=0, le=1)
    leak_end: float = Field(0.05, gt=0, le=1)
    """The uniform share of the prior, falling linearly over `leak_until` of the training."""
    leak_until: float = Field(0.6, gt=0, le=1)
    beta: float = Field(1.0, ge=0)
    """Exponent of the saliency prior in the attention."""


class DecoderConfig(Section):
    """The language model that writes the rationale."""

    name: Literal["small", "hf", "llava", "none"] = "small"
    """small: a GRU from scratch; hf: any causal language model; llava: with a vision tower of its own."""
    max_tokens: int = Field(40, ge=4)
    """Words (hf, llava: pieces of words) of a rationale at most."""
    num_beams: int = Field(1, ge=1)
    """Sentences in the running while one is written; 1 is greedy."""
    width: int = Field(128, ge=8)
    """small, hf: channels of a grounded cell."""
    min_word_count: int = Field(1, ge=1)
    """small: words seen less often in the training rationales become <unk>."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """small: share of activations that is dropped in training."""
    path: str | None = None
    """hf, llava: a local folder, or a name on the hub."""
    freeze: bool = False
    """hf, llava: keep the weights of the checkpoint as they are; with LoRA they are kept in any case."""
    lora_rank: int = Field(0, ge=0)
    """hf, llava: rank of the adapters that are trained instead of the language model; 0: none."""
    lora_alpha: float = Field(32.0, gt=0)
    """Adapters are added with weight alpha / rank."""
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    lora_targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    """Linear layers that get an adapter, by the last parts of their names; c_attn and c_proj in GPT-2."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """hf, llava: of the checkpoint's weights; bfloat16 only where they are kept as they are."""
    prompt: str = "USER: <image>\nWhy does the picture belong to its class? ASSISTANT:"
    """llava: what stands before the rationale, in the form that the checkpoint was trained on."""

    @model_validator(mode="after")
    def _fit_the_checkpoint(self) -> "DecoderConfig":
        if (self.name in ("hf", "llava")) != (self.path is not None):
            raise ValueError(
                "decoder.path names the checkpoint of decoder.name=hf or llava: those two need it"
            )
        if self.dtype == "bfloat16" and self.trains_checkpoint:
            raise ValueError("bfloat16 weights cannot be trained: set decoder.lora_rank or decoder.freeze")
        if self.prompt.count("<image>") != 1:
            raise ValueError("decoder.prompt holds <image> once, where the picture goes")
        return self

    @property
    def trains_checkpoint(self) -> bool:
        """Whether the checkpoint's own weights are trained."""
        return not self.freeze and self.lora_rank == 0


class ModelConfig(Section):
    image_size: int | None = Field(None, ge=16)
    """Images are resized to this square. None: 32 for the small backbone, else the size of the checkpoint."""
    saliency: SaliencyKind = "centered"
    """The first three are closed forms for pooling=mean; the last two need a transformer's class token."""
    second_order: bool = True
    """gradcam, relevance: a loss on the map reaches the gradient inside it too; false: taken as constant."""
    backbone: BackboneConfig = BackboneConfig()
    grounding: GroundingConfig = GroundingConfig()
    decoder: DecoderConfig = DecoderConfig()


class ObjectiveConfig(Section):
    """Weights of L = L_cls + w_v L_vis + w_t L_txt + w_c L_dist + w_r L_reg.

    The text loss is a mean over words, and few words carry what only the image can tell: with weight 1
    and a short training, rationales get the sentence right and the colour no better than by chance.
    """

    visual: float = Field(1.0, ge=0)
    text: float = Field(3.0, ge=0)
    consistency: float = Field(1.0, ge=0)
    region: float = Field(0.3, ge=0)
    """L_reg of images without a mask: evidence belongs where their rationale says that the object is."""
    region_source: RegionSource = "learned"
    """What words mean on the map: learnt from the annotated images, or a lexicon of English place words."""
    region_mass: float = Field(0.9, gt=0, le=1)
    """learned: share of the expected mask that a region holds; small regions are sharp and often wrong."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    alignment: AlignmentKind = "energy"
    """L_vis of images with a mask. The names are those of their papers; each needs a weight of its own."""
    consistency_kind: ConsistencyKind = "marginal"
    """L_dist of images without one: size and peakedness of maps, the same for each class, or their place."""
    visual_warmup: Share = 0.0
    """Share of the training over which the weight rises linearly from 0; 0: it is constant."""
    text_warmup: Share = 0.0
    consistency_warmup: Share = 0.0


class TrainConfig(Section):
    epochs: int = Field(16, ge=1)
    batch_size: int = Field(32, ge=2)
    """Images in a step over all processes."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches that a process cuts its share of a step into: the same losses in less memory. Batch
    norm sees a micro-batch at a time."""
    learning_rate: float = Field(3e-3, gt=0)
    decoder_learning_rate: float | None = Field(None, gt=0)
    """Of the decoder, if it is to differ: a pretrained language model wants about 5e-5."""
    weight_decay: float = Field(0.05, ge=0)
    warmup: Share = 0.2
    clip_norm: float = Field(1.0, gt=0)
    annotated_quota: Share = 0.25
    """At least this share of every batch has a mask (drawn with replacement), where there are any."""
    mix_backgrounds: Share = 0.5
    """Share of a batch's masked images that stand before the background of another one. 0 where labels or
    rationales speak of the background."""
    max_shift: int = Field(0, ge=0)
    """Random translation in pixels, image and mask alike."""
    seed: Seed = 0
    num_threads: int = Field(1, ge=1)
    """Threads of one CPU process."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of encoder and decoder; weights, maps, losses and sums over processes are always float32."""
    compile: bool = False
    """Encoder and language model through torch.compile, with a first step of a minute or so."""
    shard: Literal["none", "decoder"] = "none"
    """`decoder`: each process keeps a part of the language model's layers (FSDP)."""
    on_nan: Literal["stop", "skip"] = "stop"
    """When loss or gradient is not finite: stop and name the images, or go on without the step."""
    max_skipped: int = Field(10, ge=1)
    """Steps in a row that may be skipped."""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """Seconds between checkpoints, the most that a killed run loses; 0: after every step."""
    keep_checkpoints: int = Field(2, ge=1)
    stall_seconds: float = Field(30.0, gt=0)
    """A step without progress for so long is reported; processes stop waiting for one that is stuck."""
    num_workers: int = Field(1, ge=0)
    """Threads of a process that decode, augment and tokenize ahead of the step; 0: the step waits for it."""
    cache_mb: int = Field(2048, ge=0)
    """Decoded pixels that a process keeps in memory, in MiB; others are decoded whenever they are drawn."""
    shuffle_shards: int = Field(8, ge=1)
    """Shards whose rows are mixed with each other. A set in more of them is shuffled shard by shard too, so
    that a while of training reads from a part of the set."""


# --- evaluation, gate, registry --------------------------------------------------------------


class EvaluationConfig(Section):
    batch_size: int = Field(128, ge=1)
    num_threads: int = Field(1, ge=1)
    """Threads on the CPU; more than there are idle cores make it many times slower."""
    splits: list[str] | None = None
    """None: every split but train."""
    primary_split: str = "test"
    """In-distribution data: the split the gate looks at."""
    shifted_split: str | None = "ood"
    """Out-of-distribution data, where the dataset has such a split."""
    group_columns: list[str] = ["cue_class"]
    """Free columns which, crossed with the label, form the groups of the worst-group accuracy; the first of
    them that the data has is the cue."""
    min_group: int = Field(10, ge=1)
    """Smaller groups are not counted."""
    faithfulness_samples: int = Field(64, ge=0)
    """Samples of each split, at most, for insertion, deletion, comprehensiveness, sufficiency; 0: none."""
    faithfulness_steps: int = Field(10, ge=1)
    """Steps from the image to its blur; a sample costs about twice as many further predictions."""
    max_texts: int = Field(2000, ge=0)
    """Rationales generated for each split at most; 0: none."""
    slot_phrases: dict[str, list[str]] = {}
    """Slots that only sentences tell, with their possible phrases, such as {place: [in the centre, on the
    left]}: the true one is what all of a sample's references say. The column `slots` needs no entry."""
    meteor: bool = False
    """METEOR of the rationales; needs Java and pycocoevalcap, and about ten seconds."""
    bertscore_model: str | None = None
    """Folder of an encoder for BERTScore; None: no BERTScore."""
    bertscore_layer: int | None = Field(None, ge=1)
    """Whose output is compared; None: the last. Published values: 9 of bert-base, 17 of roberta-large."""
    clipscore_model: str | None = None
    """Folder of a CLIP model for CLIPScore; None: no CLIPScore."""
    gallery: int = Field(6, ge=0)
    """Pictures of each kind (best, worst, random) in the report."""


class GateRule(Section):
    """One promotion rule on a metric of the evaluation, named `<split>.<metric>`.

    `primary` and `shifted` stand for the splits that the evaluation took for these.
    """

    metric: str
    min: float | None = None
    max: float | None = None
    max_drop: float | None = Field(None, ge=0)
    """How much worse than the champion it may be, with `confidence`."""
    min_gain: float | None = Field(None, ge=0)
    """How much better than the champion it must be, with `confidence`."""
    required: bool = True
    """False: the rule is skipped where the metric does not exist."""

    @model_validator(mode="after")
    def _bound_something(self) -> "GateRule":
        if {self.min, self.max, self.max_drop, self.min_gain} == {None}:
            raise ValueError("a gate rule needs min, max, max_drop or min_gain")
        return self


class GateConfig(Section):
    rules: list[GateRule] = [
        GateRule(metric="primary.accuracy", min=0.9, max_drop=0.02),
        GateRule(metric="shifted.accuracy", min=0.85, max_drop=0.03, required=False),
        GateRule(metric="shifted.worst_group_accuracy", min=0.7, required=False),
        GateRule(metric="primary.energy_in_mask", min=0.5, max_drop=0.05, required=False),
    ]
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of the interval of a difference from the champion."""
    resamples: int = Field(2000, ge=100)
    """Draws of the paired bootstrap that gives the interval."""


class PromotionConfig(Section):
    """What a promotion needs beside the gate."""

    staging_approvals: int = Field(0, ge=0)
    """People beside the requester who must approve."""
    production_approvals: int = Field(0, ge=0)
    require_signature: bool = False
    """Provenance must be signed by `registry.public_key`."""


class RetrainingConfig(Section):
    """What is new enough to train again, measured against the data that the champion was trained on."""

    min_changed: int = Field(1, ge=1)
    """Samples that were added, changed or removed."""
    max_drift: float | None = Field(0.2, gt=0)
    """Population stability index of labels, mask area or text length; above it fewer samples will do too.
    None: drift is no reason."""


class RegistryConfig(Section):
    tracking_uri: str | None = None
    """None: MLFLOW_TRACKING_URI, else SQLite in the workspace."""
    experiment: str = "megl"
    model_name: str = Field("megl", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    licence: str = "unknown"
    """Of the weights, for the model card; named as the model hub does, such as apache-2.0."""
    signing_key: str | None = None
    """Signs provenance: a PEM file, env:NAME or awskms:///KEY. None: MEGL_SIGNING_KEY, else unsigned."""
    public_key: str | None = None
    """Models are only loaded if its private half signed them. None: MEGL_PUBLIC_KEY, else any are."""

    @field_validator("signing_key", "public_key")
    @classmethod
    def _name_a_key(cls, uri: str | None) -> str | None:
        if uri is not None and "-----BEGIN" in uri:
            raise ValueError("name the key by its file or variable; its content does not belong here")
        return uri

    @field_validator("tracking_uri")
    @classmethod
    def _hold_no_password(cls, uri: str | None) -> str | None:
        if uri is not None and _holds_credentials(uri):
            raise ValueError(
                "keep credentials out of it: MLflow reads MLFLOW_TRACKING_USERNAME and _PASSWORD"
            )
        return uri


# --- storage -----------------------------------------------------------------------------------


class StorageConfig(Section):
    """How an S3 API is reached. Credentials are never settings: boto3 finds them (environment, profile, pod
    identity)."""

    endpoint_url: str | None = None
    """Of any store but AWS. None: AWS_ENDPOINT_URL, else AWS."""
    region: str | None = None
    """None: AWS_DEFAULT_REGION or the profile's."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """Whether the bucket stands in the path or in the host name."""
    ca_bundle: Path | None = None
    """PEM file of the authorities to trust. None: AWS_CA_BUNDLE, else the usual ones."""
    connect_timeout: float = Field(10, gt=0)
    """Seconds."""
    read_timeout: float = Field(60, gt=0)
    """Seconds without a byte."""
    retries: int = Field(5, ge=0)
    """Of a request, and of a download that makes no progress; the pauses between them grow."""
    checksum: Literal["SHA256", "CRC32"] | None = "SHA256"
    """Sent with each upload, for the store to check. None: for stores that do not know these headers."""
    threads: int = Field(8, ge=1)
    """Files that are transferred at a time."""
    cache: Path | None = None
    """Folder on a disk of the machine for data that are streamed; its processes share it. None:
    $XDG_CACHE_HOME/megl, else ~/.cache/megl."""
    cache_mb: int = Field(16384, ge=1)
    """What that folder may hold, in MiB, beside what is on its way."""
    dvc_remote: str | None = None
    """Where ingest pushes the versions of datasets: s3://bucket/prefix or a folder. None: nowhere. DVC's own
    client goes there: it takes address, region, authorities, timeouts and threads, no addressing style."""

    @field_validator("dvc_remote")
    @classmethod
    def _be_s3_or_a_folder(cls, remote: str | None) -> str | None:
        if remote is not None and ("://" in remote and not remote.startswith("s3://")):
            raise ValueError("write s3://bucket/prefix or a folder")
        if remote is not None and _holds_credentials(remote):
            raise ValueError("keep credentials out of it: they are found in the environment or a profile")
        return remote


# --- pods ------------------------------------------------------------------------------------

Amount = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[KMGTPE]i?)?$")]
"""A quantity as Kubernetes writes it: `500m`, `4`, `16Gi`."""


class Toleration(Section):
    """A taint that pods may run in spite of."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class StepPods(Section):
    """What one step's pods get instead of what components/<step>/metadata.yaml says, or on top of it."""

    image: str | None = None
    """Instead of `pods.image`, such as the one with CUDA."""
    cpu_request: Amount | None = None
    cpu_limit: Amount | None = None
    memory_request: Amount | None = None
    memory_limit: Amount | None = None
    gpus: int | None = Field(None, ge=0)
    timeout_minutes: float | None = Field(None, gt=0)
    """Of each try."""
    retries: int | None = Field(None, ge=0)
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    secrets: dict[str, dict[str, str]] = {}


class PodsConfig(Section):
    """The pods of a pipeline on a cluster. Compiled into the pipeline; no parameter of it. The defaults are
    what infra/kubernetes makes."""

    image: str | None = None
    """None: the image of this version."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    pull_secrets: list[str] = []
    """Names of the secrets that let the nodes pull the image."""
    workspace_claim: str | None = "megl-workspace"
    """The PersistentVolumeClaim mounted as the workspace, on /workspace."""
    secrets: dict[str, dict[str, str]] = {
        "s3": {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    }
    """Of each secret: which key becomes which variable, as in {megl-s3: {key: AWS_ACCESS_KEY_ID}}."""
    env: dict[str, str] = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    """Plain variables."""
    user: int | None = Field(None, ge=1)
    """User id of the processes. None: the image's, which is not root either."""
    group: int | None = Field(None, ge=1)
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    steps: dict[str, StepPods] = {}
    """By step, as in {train: {gpus: 4, node_selector: {pool: gpu}}}."""


# --- cluster ---------------------------------------------------------------------------------


class ClusterConfig(Section):
    """A TrainJob's size, its place in the queue, and how long to wait for what."""

    exchange: str | None = None
    """Folder or s3:// address that the pipeline and the nodes share: packed data, checkpoints, results.
    A folder named `exchange` in the workspace is cleaned up with it. None: no TrainJob; the train step
    trains where it runs."""
    namespace: str = "megl"
    runtime: str = "megl"
    """The ClusterTrainingRuntime: image, torchrun, volumes, security and the pods' priority class."""
    num_nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(1, ge=0)
    processes_per_node: int | None = Field(None, ge=1)
    """None: one for each GPU where there is an exchange, else one."""
    cpu: str | None = None
    """Cores of a node as Kubernetes writes them (`8`, `500m`). None: as the runtime says."""
    memory: str | None = None
    """Memory of a node as Kubernetes writes it (`64Gi`). None: as the runtime says."""
    env: dict[str, str] = Field(default_factory=dict)
    """Plain variables; secrets stand in the runtime, by reference."""
    queue: str | None = None
    """A LocalQueue of Kueue. None: no queue."""
    priority: str | None = None
    """A WorkloadPriorityClass of Kueue; a TrainJob cannot name the priority class of its pods."""
    timeout_minutes: float = Field(24 * 60, gt=0)
    """From the creation of the job to its end, all waiting included."""
    pending_minutes: float = Field(12 * 60, gt=0)
    """How long the job may wait for quota or nodes at a stretch."""
    start_minutes: float = Field(10, gt=0)
    """How long a container may fail to start, such as by an image that cannot be pulled."""
    patience_minutes: float = Field(10, gt=0)
    """How long the API server may be away at a stretch."""
    poll_seconds: float = Field(5, gt=0)
    tail_lines: int = Field(30, ge=1)
    """Lines kept of the log of every process but the first."""

    @model_validator(mode="after")
    def _priority_needs_a_queue(self) -> "ClusterConfig":
        if self.priority and not self.queue:
            raise ValueError(
                "priority is the order within a queue: set queue too, "
                "or put the pods' priorityClassName into the ClusterTrainingRuntime"
            )
        return self


class Config(Section):
    """The whole tree, as params.yaml holds it."""

    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    pack: PackConfig = PackConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    promotion: PromotionConfig = PromotionConfig()
    retraining: RetrainingConfig = RetrainingConfig()
    registry: RegistryConfig = RegistryConfig()
    storage: StorageConfig = StorageConfig()
    cluster: ClusterConfig = ClusterConfig()
    pods: PodsConfig = PodsConfig()


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Defaults, then the YAML file at `path`, then each `a.b=c` of `overrides`.

    Raises:
        ConfigError: the file or an override does not fit; the message names every wrong key.
    """
    given = list(overrides)
    tree = read_yaml(path) if path is not None else {}
    _override(tree, given)
    sources = [*([str(path)] if path else []), *(["--set"] if given else [])]
    return parse(Config, tree, where=", ".join(sources))


def changed(config: Config, overrides: Iterable[str], where: str = "--set") -> Config:
    """A configuration with each `a.b=c` of `overrides` applied.

    Raises:
        ConfigError: an override does not fit; the message names every wrong key.
    """
    tree = config.model_dump(mode="json")
    _override(tree, overrides)
    return parse(Config, tree, where=where)


def _override(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"cannot read {override!r}", fix="write --set section.key=value")
        _set_in(tree, key.strip(), _parse_scalar(value))


S = TypeVar("S", bound=Section)


class _Loader(yaml.SafeLoader):
    """YAML whose only booleans are true and false, as in YAML 1.2 and DVC: `off` is a severity."""


_BOOLEAN = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def parse(section: type[S], tree: Mapping[str, Any], where: str = "configuration") -> S:
    """Check a plain tree against a section.

    Raises:
        ConfigError: naming each wrong key, and for unknown keys the nearest known one.
    """
    try:
        return section.model_validate(dict(tree))
    except ValidationError as error:
        problems = [_describe(section, dict(item)) for item in error.errors()]
        raise ConfigError("\n  ".join(["wrong settings:", *problems]), where=where) from None


def read_sections(**texts: str) -> Config:
    """A configuration from sections as JSON, by name; sections that are not given have their defaults.

    Raises:
        ConfigError: a text is not JSON, or does not fit its section.
    """
    try:
        sections = {name: json.loads(text) for name, text in texts.items()}
    except json.JSONDecodeError as error:
        raise ConfigError(f"not valid JSON: {error}", where=", ".join(texts)) from None
    return parse(Config, sections, where=", ".join(texts))


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: no such file, no YAML, or no mapping.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ConfigError("no such parameter file", where=str(path)) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path)) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("a parameter file holds a mapping of sections", where=str(path))
    return tree


def _parse_scalar(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        return text


def _set_in(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{dotted}: {parent} holds a value, not a section")
        tree = child
    tree[last] = value


def _describe(section: type[Section], item: Mapping[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    name = ".".join(location)
    if item["type"] != "extra_forbidden":
        return f"{name}: {item['msg']} (got {redact(repr(item['input']))})"
    known = _known_keys(section)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    nearest = nearest or [key for key in known if key.split(".")[-1] == location[-1]][:1]
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{name}: unknown key{hint}"


def _known_keys(section: type[Section], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
