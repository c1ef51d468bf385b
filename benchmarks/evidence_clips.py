"""Clips for benchmarks/adaptation_recipes.py: rendered ones that no training has seen, and real footage.

The embedded data set has too few clips for small differences. This command renders others in its layout, half
of the test of classes that the embedded model was trained on and half of classes that it never saw, and
preprocesses them as the pipeline does. `--output` gets the raw videos, the lists that split them, and the
folder `clips`, which is all that the benchmark needs. From the repository root:

    python benchmarks/evidence_clips.py --output .cache/evidence --real FOLDER --real-search NAME
"""

import argparse
import shutil
import sys
from itertools import cycle
from pathlib import Path

from lora_tta.config import DataParams, PreprocessParams, load_params
from lora_tta.data.folder import list_files
from lora_tta.data.preprocess import preprocess
from lora_tta.embedded.synthetic import HELD_OUT_CLASSES, TRAINING_CLASSES, write_dataset
from lora_tta.errors import UserError, report_user_errors
from lora_tta.files import write_text

SEED = 1  # that of the embedded data set is 0
UNLIMITED = 10_000  # windows of a video, clips for the search: as many as there are
CLIPS_PER_GROUP = 2  # as write_dataset makes them


def main() -> None:
    """Render, copy, split and preprocess."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder, which must not exist yet")
    parser.add_argument("--search", type=int, default=16, help="rendered clips that choose")
    parser.add_argument("--test", type=int, default=100, help="rendered clips that are reported")
    parser.add_argument("--real", type=Path, help="folder of videos, all of whose windows are taken")
    parser.add_argument(
        "--real-search", nargs="+", default=[], metavar="NAME", help="files of them that choose"
    )
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise UserError(f"{arguments.output} is there already: remove it or name another folder")
    if arguments.real_search and not arguments.real:
        raise UserError("--real-search names files of the folder --real, which is missing")
    params = load_params().preprocess
    videos = arguments.output / "videos"
    lists = render(videos, params, arguments.search, arguments.test)
    if arguments.real:
        shutil.copytree(arguments.real, videos, dirs_exist_ok=True)
        add_real(lists, arguments.real, arguments.real_search)
    for split, names in lists.items():
        write_text(arguments.output / f"{split}.txt", "\n".join(names) + "\n")
    preprocess(
        DataParams(
            root=videos,
            search_list=arguments.output / "search.txt",
            split_list=arguments.output / "test.txt",
            caption_suffix=None,
        ),
        params.model_copy(
            update={
                "window": "first",
                "windows_per_video": UNLIMITED,
                "stride": None,
                "num_clips": None,
                "search_clips": UNLIMITED,
            }
        ),
        arguments.output / "clips",
    )


def render(root: Path, params: PreprocessParams, search: int, test: int) -> dict[str, list[str]]:
    """Render videos that are one clip each, and return the names of those of each split.

    Of the search, two thirds are of classes trained on, as most tuning is on what a model knows. A group has
    two clips, so each class has its first groups for the search and the others for the test.
    """
    shares = {
        TRAINING_CLASSES: (search - search // 3, test - test // 2),
        HELD_OUT_CLASSES: (search // 3, test // 2),
    }
    counts = {
        classes: [whole_groups(-(-wanted // len(classes))) for wanted in numbers]
        for classes, numbers in shares.items()
    }
    paths = write_dataset(
        root,
        *(sum(counts[classes]) for classes in shares),
        seed=SEED,
        # Twice what is left of it: a fifth of the rendering of UCF-101's size, and the same field of view.
        height=2 * params.height,
        width=2 * params.width,
        fps=params.fps,
        frames=(params.num_frames, params.num_frames),
    )
    lists: dict[str, list[str]] = {"search": [], "test": []}
    for classes, numbers in shares.items():
        first = counts[classes][0]
        names = {name: [path.name for path in paths if path.parent.name == name] for name in classes}
        for split, wanted, part in zip(lists, numbers, (slice(first), slice(first, None)), strict=True):
            lists[split] += evenly([names[name][part] for name in classes], wanted)
    return lists


def whole_groups(count: int) -> int:
    """The next number of clips that are whole groups."""
    return -(-count // CLIPS_PER_GROUP) * CLIPS_PER_GROUP


def evenly(names: list[list[str]], wanted: int) -> list[str]:
    """So many names of the classes, which take turns."""
    turns = cycle([iter(each) for each in names])
    return [next(next(turns)) for _ in range(wanted)]


def add_real(lists: dict[str, list[str]], folder: Path, for_search: list[str]) -> None:
    """Add the videos of a folder to the lists, by name, so that all windows of one are on one side."""
    found = [path.name for path in list_files(folder).files]
    if missing := set(for_search) - set(found):
        raise UserError(f"{folder} has no {', '.join(sorted(missing))}: it has {', '.join(found)}")
    lists["search"] += [name for name in found if name in for_search]
    lists["test"] += [name for name in found if name not in for_search]


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
