"""The ``lora-tta`` command: everything that is not a DVC stage."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML

from lora_tta.config import load_params, validate_params
from lora_tta.errors import UserError, report_user_errors

PARAMS_FILE = Path("params.yaml")
PRESETS = Path(__file__).parents[1] / "presets"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; a :class:`UserError` becomes one line on standard error and status 2."""
    arguments = _parser().parse_args(argv)
    return report_user_errors(lambda: arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lora-tta", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    params = commands.add_parser("params", help="change params.yaml, keeping its comments")
    params.add_argument("--preset", choices=sorted(path.stem for path in PRESETS.glob("*.yaml")))
    params.add_argument("assignments", nargs="*", metavar="SECTION.KEY=VALUE")
    params.set_defaults(run=_set_params)

    importer = commands.add_parser("import-ucf101", help="bring UCF-101 into the data folder")
    importer.add_argument("source", type=Path, help="extracted folder or archive")
    importer.add_argument("--lists", type=Path, help="folder of the official train/test lists")
    importer.add_argument("--replace", action="store_true", help="remove the clips that are there")
    importer.set_defaults(run=_import_ucf101)

    convert = commands.add_parser("convert", help="published Open-Sora v2.0 files to a diffusers folder")
    convert.add_argument("--transformer", type=Path, required=True, help="Open_Sora_v2.safetensors")
    convert.add_argument("--vae", type=Path, required=True, help="hunyuan_vae.safetensors")
    convert.add_argument("--t5", type=Path, required=True, help="folder of google/t5-v1_1-xxl")
    convert.add_argument("--clip", type=Path, required=True, help="folder of openai/clip-vit-large-patch14")
    convert.add_argument("--output", type=Path, required=True)
    convert.add_argument("--max-shard-size", default="5GB")
    convert.set_defaults(run=_convert)

    search = commands.add_parser("search", help="work on the study outside `dvc repro`")
    search.add_argument("--workers", type=int, help="processes, or jobs on a cluster")
    search.add_argument("--cluster", choices=["slurm"], help="submit the workers as jobs")
    search.set_defaults(run=_search)

    cache = commands.add_parser("cache", help="what the cache of finished work holds")
    cache.add_argument("--max-gigabytes", type=float, help="remove least recently used entries above this")
    cache.set_defaults(run=_cache)

    summary = commands.add_parser("summary", help="the comparison of the last run")
    summary.set_defaults(run=_summary)

    ui = commands.add_parser("ui", help="serve the MLflow UI")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(run=_ui)
    return parser


def _set_params(arguments: argparse.Namespace) -> None:
    yaml = YAML()
    yaml.preserve_quotes = True
    document = yaml.load(PARAMS_FILE) if PARAMS_FILE.exists() else load_params(PARAMS_FILE)
    if arguments.preset:
        for section, values in yaml.load(PRESETS / f"{arguments.preset}.yaml").items():
            document[section].update(values)
    for assignment in arguments.assignments:
        name, separator, value = assignment.partition("=")
        *path, key = name.split(".")
        target = document
        for part in path:
            target = target.get(part) if isinstance(target, dict) else None
        if not separator or not isinstance(target, dict) or key not in target:
            raise UserError(
                f"{assignment!r} sets nothing in {PARAMS_FILE}: write SECTION.KEY=VALUE with a key of it"
            )
        target[key] = YAML(typ="safe").load(value)
    validate_params(document, PARAMS_FILE)
    partial = PARAMS_FILE.with_suffix(".partial")
    yaml.dump(document, partial)
    partial.replace(PARAMS_FILE)
    if arguments.preset:
        from lora_tta.models.loading import check_pipeline_folder

        # DVC would only say that the folder is missing.
        check_pipeline_folder(Path(document["model"]["path"]))


def _import_ucf101(arguments: argparse.Namespace) -> None:
    from lora_tta.data.ucf101_import import import_ucf101

    root = load_params(PARAMS_FILE).data.root
    counts = import_ucf101(arguments.source, root, lists=arguments.lists, replace=arguments.replace)
    print(
        f"{root}: {counts.imported} clips imported, {counts.already_there} were there, "
        f"{counts.removed} removed; {counts.classes} classes, {counts.lists} lists"
    )
    subprocess.run(["dvc", "add", str(root)], check=True)


def _convert(arguments: argparse.Namespace) -> None:
    from lora_tta.models.conversion.checkpoint import convert_checkpoint

    convert_checkpoint(
        transformer_file=arguments.transformer,
        vae_file=arguments.vae,
        t5_folder=arguments.t5,
        clip_folder=arguments.clip,
        output_folder=arguments.output,
        max_shard_size=arguments.max_shard_size,
    )


def _search(arguments: argparse.Namespace) -> None:
    from lora_tta.stages.search import main as run_search

    run_search(arguments.workers, arguments.cluster)


def _cache(arguments: argparse.Namespace) -> None:
    from lora_tta.cache.store import ContentCache

    params = load_params(PARAMS_FILE).cache
    cache = ContentCache(params.path, params.max_bytes)
    if arguments.max_gigabytes is not None:
        print(f"removed {cache.evict(int(arguments.max_gigabytes * 1e9), protected_seconds=0)} entries")
    for usage in cache.usage():
        print(f"{usage.kind:<14}{usage.entries:>8} entries{usage.bytes / 1e6:>12.1f} MB")
    print(f"in {params.path}, limited to {params.max_gigabytes:g} GB")


def _summary(arguments: argparse.Namespace) -> None:
    from lora_tta.cli.summary import print_summary

    print_summary()
    print("compare trials: make ui")


def _ui(arguments: argparse.Namespace) -> None:
    params = load_params(PARAMS_FILE).tracking
    command = ["mlflow", "ui", "--backend-store-uri", params.uri, "--port", str(arguments.port)]
    subprocess.run(command, check=False)


if __name__ == "__main__":
    sys.exit(main())
