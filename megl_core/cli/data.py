"""`megl data`: generate, import, validate, pack, move and look at datasets."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megl_core.cli.common import JsonOption, ParamsOption, SetOption, console, print_json, resolve_config
from megl_core.config import Config, DataConfig, SplitConfig, parse
from megl_core.errors import DataError, GateError

if TYPE_CHECKING:
    import pyarrow as pa

    from megl_core.data.importers import ImportReport

DatasetArgument = Annotated[Path, typer.Argument(help="A dataset folder.", show_default=False)]
ManifestOption = Annotated[
    Path | None,
    typer.Option(help="A manifest made before; without it the dataset is scanned.", show_default=False),
]

app = typer.Typer(no_args_is_help=True, help="Generate, import, validate, pack, move and look at datasets.")


@app.command()
def generate(
    target: Annotated[Path, typer.Argument(help="The dataset folder to write.")] = Path("data/scenes"),
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate the procedural set, in which a texture patch pretends to tell the class.

    Example: megl data generate data/scenes --set data.scenes.num_train=600
    """
    from megl_core.data.importers import import_dataset

    config = resolve_config(params, set_)
    _show_import(import_dataset("procedural", None, target, config.data), target, as_json)


@app.command("import")
def import_(
    importer: Annotated[
        str, typer.Argument(help="folder, megl-release, coco, act-x, vqa-x or procedural (docs/data.md).")
    ],
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, an s3:// folder, or a DVC repository with --path.", show_default=False
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The dataset folder to write.")],
    path: Annotated[
        str | None, typer.Option(help="The folder that DVC tracks in the repository.", show_default=False)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag of the repository.", show_default=False)
    ] = None,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import images, masks and rationales into a dataset folder; all rows, or none.

    Example: megl data import coco downloads/coco data/coco --set data.name=coco

    Example: megl data import folder https://git.example.org/birds.git data/birds --path data/birds
    """
    from megl_core.data.importers import import_dataset
    from megl_core.data.sources import fetched, find_source

    config = resolve_config(params, set_)
    named = {"importer": importer, "source": source, "path": path, "revision": revision}
    data = parse(DataConfig, config.data.model_dump() | named, where="data import")
    found = find_source(data, config.storage)
    with fetched(found, target) as folder:
        report = import_dataset(importer, folder, target, data)
    _show_import(report, target, as_json)


@app.command()
def validate(
    dataset: DatasetArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the reports and the manifest go.")
    ] = Path("runs/validation"),
    manifest: ManifestOption = None,
    reference: Annotated[
        Path | None, typer.Option(help="The manifest to compare with, for drift.", show_default=False)
    ] = None,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a dataset against the expectations of params.yaml; exit code 4 if one of them fails.

    Example: megl data validate data/scenes --set validation.min_rows=100
    """
    from megl_core.validation import validate as run_validation

    config = resolve_config(params, set_)
    manifest = manifest or _scan_into(dataset, output / "manifest.parquet", config.data.split)
    try:
        result = run_validation(
            dataset, manifest, config.validation, output, labels=config.data.labels, reference=reference
        )
    except GateError:
        if as_json:
            typer.echo((output / "validation.json").read_text(), nl=False)
        raise
    if as_json:
        print_json(result.to_json())
        return
    console.print(f"[green]passed[/]: {result.num_rows} rows, {len(result.checks)} checks")
    for check in result.with_status("warn"):
        console.print(f"[yellow]warning[/]: {check.name}, {check.num_offenders} offenders", highlight=False)
    console.print(f"report: {output / 'validation.html'}", soft_wrap=True)


@app.command()
def pack(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Argument(help="The folder of shards to write.")] = Path("runs/packed"),
    manifest: ManifestOption = None,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack a dataset into memory-mapped Arrow shards with its manifest and root digest.

    Example: megl data pack data/scenes runs/packed --manifest runs/validation/manifest.parquet
    """
    from megl_core.data.manifest import read_manifest, require_current
    from megl_core.data.pack import pack as run_pack

    config = resolve_config(params, set_)
    if manifest:
        require_current(read_manifest(manifest), dataset)
    with tempfile.TemporaryDirectory() as scratch:
        manifest = manifest or _scan_into(dataset, Path(scratch) / "manifest.parquet", config.data.split)
        info = run_pack(dataset, manifest, output, config.pack, labels=config.data.labels)
    if as_json:
        print_json(asdict(info))
    else:
        rows = ", ".join(f"{split} {count}" for split, count in info.splits.items())
        console.print(f"packed {sum(info.splits.values())} samples into {output} ({rows})", soft_wrap=True)
        console.print(f"digest {info.digest}", soft_wrap=True)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A dataset folder, a packed folder, or a manifest.")],
    verify: Annotated[
        bool, typer.Option(help="Compute a packed folder's digest again from its bytes.")
    ] = False,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the labels of each split, the masks and the rationales, and print the root digest.

    Example: megl data show runs/packed --verify
    """
    from megl_core.data.manifest import root_digest

    if verify:
        from megl_core.data.packed import verify as verify_packed

        verify_packed(path)
    table = _manifest_of(path, resolve_config(params, set_))
    counts = _count(table)
    if as_json:
        print_json({"digest": root_digest(table), "splits": counts})
        return
    console.print(_as_table(counts))
    console.print(f"digest {root_digest(table)}{' (verified)' if verify else ''}", soft_wrap=True)


@app.command()
def upload(
    folder: Annotated[Path, typer.Argument(help="The folder to copy.", show_default=False)],
    uri: Annotated[str, typer.Argument(help="Its address: s3://bucket/prefix.", show_default=False)],
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a folder to S3: a dataset, from where `data.source` takes it, or packed data, which `megl train`
    streams. What is there already is not sent again.

    Example: megl data upload data/birds s3://datasets/birds --set storage.endpoint_url=https://s3.example.org
    """
    from megl_core.data.packed import is_packed
    from megl_core.data.packed import verify as verify_packed
    from megl_core.storage.s3 import list_folder, upload_folder

    config = resolve_config(params, set_)
    if is_packed(folder):
        verify_packed(folder)
    upload_folder(folder, uri, config.storage)
    files = list_folder(uri, config.storage)
    size = sum(file.size for file in files.values())
    if as_json:
        print_json({"uri": uri, "num_files": len(files), "size": size})
        return
    console.print(f"{uri} holds {len(files)} files, {size} bytes", markup=False, soft_wrap=True)


@app.command()
def restore(
    reference: Annotated[
        str,
        typer.Argument(
            help="Digest of the dataset, its DVC hash (....dir), or a model that was trained on it: megl/3.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The dataset folder to write.")],
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder of the local MLflow store.")
    ] = Path("workspace"),
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a dataset back from storage.dvc_remote, byte for byte, and check its digest.

    Example: megl data restore DIGEST -o data/birds --set storage.dvc_remote=s3://datasets/megl

    Example: megl data restore megl/champion -o data/birds
    """
    from megl_core.data.restore import restore as run_restore

    config = resolve_config(params, set_)
    if "/" in reference:
        reference = _trained_on(reference, config, workspace)
    restored = run_restore(reference, output, config.storage)
    if as_json:
        print_json(asdict(restored))
        return
    console.print(
        f"{output} holds {restored.num_files} files, {restored.size} bytes", markup=False, soft_wrap=True
    )
    name = "digest" if restored.digest else "DVC hash"
    console.print(f"{name} {restored.digest or restored.md5} (verified)", soft_wrap=True)


def _trained_on(version: str, config: Config, workspace: Path) -> str:
    """Root digest of the data that a registered model was trained on."""
    from megl_core.lineage.record import parse_reference, read_record
    from megl_core.provenance.statement import data_digest
    from megl_core.registry.tracking import resolve_tracking_uri

    recorded = read_record(*parse_reference(version), resolve_tracking_uri(config.registry, workspace))
    digest = data_digest(recorded.statement) if recorded.statement else ""
    if not digest:
        raise DataError("the record of this model does not tell its data", where=version)
    return digest


def _show_import(report: "ImportReport", target: Path, as_json: bool) -> None:
    if as_json:
        print_json({"dataset": str(target), **asdict(report)})
        return
    skipped = f", {report.num_skipped} rows without annotation skipped" if report.num_skipped else ""
    console.print(
        f"wrote {target}: {report.num_images} images of {len(report.labels)} labels, "
        f"{report.num_masks} masks, {report.num_texts} with rationales{skipped}",
        soft_wrap=True,
    )
    console.print(f"next: megl data validate {target}", soft_wrap=True)


def _scan_into(dataset: Path, manifest: Path, split: SplitConfig) -> Path:
    """Scan a dataset; what an earlier manifest at the same place measured is not decoded again."""
    from megl_core.data.manifest import scan, write_manifest

    write_manifest(scan(dataset, split, known=manifest), manifest)
    return manifest


def _manifest_of(path: Path, config: Config) -> "pa.Table":
    from megl_core.data.manifest import read_manifest, scan

    if path.is_file():
        return read_manifest(path)
    packed = path / "manifest.parquet"
    if packed.is_file():
        return read_manifest(packed)
    return scan(path, config.data.split)


def _count(table: "pa.Table") -> dict[str, dict[str, Any]]:
    """`{split: {rows, masks, texts, labels: {label: rows}}}`."""
    counts: dict[str, dict[str, Any]] = {}
    for row in table.select(["split", "label", "mask", "text_sha256"]).to_pylist():
        split = counts.setdefault(row["split"], {"rows": 0, "masks": 0, "texts": 0, "labels": {}})
        split["rows"] += 1
        split["masks"] += row["mask"] is not None
        split["texts"] += row["text_sha256"] is not None
        split["labels"][row["label"]] = split["labels"].get(row["label"], 0) + 1
    return dict(sorted(counts.items()))


def _as_table(counts: dict[str, dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("", *counts)
    labels = sorted({label for split in counts.values() for label in split["labels"]})
    for label in labels:
        table.add_row(escape(label), *(str(split["labels"].get(label, 0)) for split in counts.values()))
    table.add_section()
    for name in ("rows", "masks", "texts"):
        table.add_row(f"[bold]{name}[/]", *(str(split[name]) for split in counts.values()))
    return table
