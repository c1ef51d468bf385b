"""``lora-tta continue VIDEO``: adapt to one video, and write how it goes on."""

import argparse
import os
from pathlib import Path
from typing import Any

from lora_tta.config import load_own_or_packaged_params
from lora_tta.data.folder import lies_in, printable
from lora_tta.errors import UserError
from lora_tta.imports import large_imports

SUFFIX = ".mp4"
CONTINUED, COMPARISON = "_continued", "_comparison"
# Leaves room in the 255 bytes of a name for what is added.
_MAX_STEM_BYTES = 200
DESCRIPTION = (
    "Adapts the model to the last frames of a video and writes them with those that follow. If the video is "
    "long enough, its last frames are predicted as well, from those before, and compared with the truth. "
    "The settings are those of params.yaml in this folder, else those of the package with the small model."
)


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "continue", help="adapt to one video and continue it", description=DESCRIPTION
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="any video that FFmpeg reads")
    parser.add_argument("--prompt", help="words for it; else its caption, see docs/videos.md")
    parser.add_argument("--rank", type=int, help="of the adapter")
    parser.add_argument("--steps", type=int, help="of the adaptation, exactly so many")
    parser.add_argument("--learning-rate", type=float, help="of the adaptation")
    parser.add_argument(
        "--start", type=float, metavar="SECONDS", help="first known frame; else the last ones"
    )
    parser.add_argument(
        "--no-compare", action="store_true", help="leave out the comparison, half of the work"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"file ({SUFFIX}) or folder; else beside the video, or here if that is in data.root",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the continuation, and the comparison beside it.

    Raises:
        UserError: as :func:`~lora_tta.experiment.own_video.continue_video`; or the output exists or cannot be
            written.
    """
    if not arguments.video.is_file():
        raise UserError(f"{arguments.video} is no file: give a video")
    if arguments.start is not None and not 0 <= arguments.start < float("inf"):
        raise UserError(f"--start is {arguments.start:g}: give seconds from the beginning of the video")
    output = _output(arguments)
    comparison = output.with_name(f"{output.stem}{COMPARISON}{SUFFIX}")
    _check_free(arguments, [output] if arguments.no_compare else [output, comparison])

    with large_imports():
        from lora_tta.experiment.own_video import continue_video

    result = continue_video(
        arguments.video,
        arguments.prompt,
        rank=arguments.rank,
        num_steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        start=arguments.start,
        compare=not arguments.no_compare,
        progress=True,
    )
    print(f'prompt: "{result.prompt}" ({result.prompt_from})')
    result.write(output)
    new = len(result.continuation.generated)
    written = [f"{printable(str(output))} ({new} new frames, {new / result.fps:.1f} s)"]
    compared = result.comparison
    if compared is not None:
        result.write_comparison(comparison)
        written.append(printable(str(comparison)))
        values = "; ".join(
            f"{name.upper()} {before:.2f} without and {after:.2f} with adaptation"
            for name, (before, after) in compared.metrics.items()
        )
        print(f"the last {new} frames predicted: {values}" if arguments.start is None else values)
    elif not arguments.no_compare:
        print("no comparison: the video shows too few frames after the known ones")
    parts = {id(part): part for part in (result.continuation, compared) if part is not None}.values()
    adapting, generating = (
        sum(seconds) for seconds in zip(*((p.adapt_seconds, p.generate_seconds) for p in parts), strict=True)
    )
    print(
        f"wrote {' and '.join(written)}; {adapting:.1f} s of adaptation "
        f"({len(result.continuation.losses)} steps), {generating:.1f} s of generation"
    )


def _output(arguments: argparse.Namespace) -> Path:
    video: Path = arguments.video
    stem = os.fsdecode(os.fsencode(video.stem)[:_MAX_STEM_BYTES])
    name = f"{stem}{CONTINUED}{SUFFIX}"
    given: Path | None = arguments.output
    if given is None:
        # There it would be one of the clips of the next run.
        in_data = lies_in(video, load_own_or_packaged_params().data.root)
        return Path.cwd() / name if in_data else Path(os.path.abspath(video.parent)) / name
    if given.is_dir():
        return Path(os.path.abspath(given)) / name
    if given.suffix.lower() != SUFFIX:
        raise UserError(f"--output {given} is neither a folder nor a name that ends in {SUFFIX}")
    return Path(os.path.abspath(given))


def _check_free(arguments: argparse.Namespace, outputs: list[Path]) -> None:
    for path in outputs:
        if path.exists() and path.samefile(arguments.video):
            raise UserError(f"{path} is the video itself: give --output another name")
        if path.exists() and not arguments.overwrite:
            raise UserError(f"{path} exists: give --output another name, or --overwrite")
    folder = outputs[0].parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{folder} is no folder that can be written to: name another one with --output")
