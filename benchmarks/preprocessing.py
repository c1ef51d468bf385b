"""Rate of preprocessing against plain decoding of the same clips with the same libraries.

The raw clips are those of `data` (320x240 MPEG-4 in AVI, as UCF-101's), or any folder. Run from the root:

    python benchmarks/preprocessing.py                                        # to 192x336, as for Open-Sora
    python benchmarks/preprocessing.py --height 64 --width 112 --clips VIDEOS

Every process has one codec thread. Plain decoding stops at the last frame that preprocessing needs. The
start of processes is included, also where the `ffmpeg` program, if there is one, decodes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import av
from machine import describe_cpu

from lora_tta.config import DataParams, PreprocessParams
from lora_tta.data.preprocess import preprocess
from lora_tta.data.scaling import FrameScaler
from lora_tta.data.timeline import Timing, resample
from lora_tta.data.transcode import read_packets
from lora_tta.data.ucf101 import find_videos


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("data"), help="folder of raw videos")
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=336)
    parser.add_argument("--min-clips", type=int, default=100, help="fewer are taken several times over")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    params = PreprocessParams(
        size=None,
        height=arguments.height,
        width=arguments.width,
        fps=24,
        conditioning_frames=33,
        generated_frames=32,
        window="first",
        windows_per_video=1,
        stride=None,
        num_clips=None,
        search_clips=1,
        seed=0,
    )
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        usable = usable_videos(arguments.clips, params, Path(folder, "usable"), arguments.min_clips)
        work = pieces_of_work(usable, params, Path(folder), cores)
        rows = [measure(name, run, len(usable), arguments.repeats) for name, run in work.items()]
    environment = {
        "machine": describe_cpu(),
        "PyAV": f"{av.__version__}, libavcodec {av.library_versions['libavcodec']}",
        "clips": f"{len(usable)} from {arguments.clips}, to {arguments.width}x{arguments.height}",
    }
    print("\n".join(f"{name}: {value}" for name, value in environment.items()) + "\n")
    print(table(rows))
    if arguments.output:
        arguments.output.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")


def usable_videos(root: Path, params: PreprocessParams, folder: Path, min_clips: int) -> dict[Path, Timing]:
    """The videos that give a clip, linked into one folder until there are enough, and their timing."""
    sources = find_videos(root)
    preprocess_folder(root, params, folder.with_name("tried"), workers=1)
    made = {path.stem for path in folder.with_name("tried").glob("*.mp4")}
    usable = {}
    for copy in range(-(-min_clips // len(made))):
        for source in sources:
            if source.clip_id in made:
                link = folder / source.class_name / f"{source.clip_id}_{copy}{source.path.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source.path.absolute())
                usable[link] = read_packets(link).timing
    return usable


def pieces_of_work(
    usable: dict[Path, Timing], params: PreprocessParams, folder: Path, cores: int
) -> dict[str, Callable[[], None]]:
    """What is measured, by name; each does all clips once."""
    needed = {path: num_needed(timing, params) for path, timing in usable.items()}
    whole = partial(preprocess_folder, folder / "usable", params, folder / "output")

    def each(function: Callable[[Path], object]) -> Callable[[], None]:
        return lambda: [function(path) for path in usable] and None

    work = {
        "plain decoding": each(lambda path: decode_to_nowhere(path, needed[path])),
        f"plain decoding, {cores} processes": partial(decode_in_processes, needed, cores),
        "plain decoding of whole files": each(lambda path: decode_to_nowhere(path, None)),
        "reading time stamps": each(read_packets),
        "decoding and scaling": each(lambda path: scale(path, usable[path], params)),
        "preprocessing": partial(whole, workers=1),
        f"preprocessing, {cores} processes": partial(whole, workers=cores),
    }
    if shutil.which("ffmpeg"):
        work["plain decoding, ffmpeg program"] = each(
            lambda path: decode_by_program("-i", str(path), "-frames:v", str(needed[path]))
        )
        if are_alike(usable):
            playlist = folder / "playlist"
            playlist.write_text("".join(f"file {quoted(path)}\n" for path in usable))
            playlist_input = ("-f", "concat", "-safe", "0", "-i", str(playlist))
            work["whole files, ffmpeg program called once"] = partial(decode_by_program, *playlist_input)
    return work


def num_needed(timing: Timing, params: PreprocessParams) -> int:
    """Frames to decode for the window that begins with the first one: up to the one after its last."""
    return min(timing.num_frames, int(Fraction(params.num_frames, params.fps) / timing.frame_interval) + 1)


def decode(path: Path) -> Iterator[av.VideoFrame]:
    """Frames of a video, decoded in one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)


def decode_to_nowhere(path: Path, count: int | None) -> None:
    """Decode the first ``count`` frames, or all."""
    deque(islice(decode(path), count), maxlen=0)


def scale(path: Path, timing: Timing, params: PreprocessParams) -> None:
    """What preprocessing does before it encodes."""
    scaler = None
    for frame in resample(decode(path), timing, 0, params.num_frames, params.fps):
        scaler = scaler or FrameScaler(frame, None, params.height, params.width)
        scaler(frame)


def decode_in_processes(needed: dict[Path, int], processes: int) -> None:
    """Plain decoding in processes that are started as those of preprocessing are."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        list(executor.map(decode_to_nowhere, needed, needed.values()))


def are_alike(paths: Iterable[Path]) -> bool:
    """Whether the ffmpeg program can decode the videos as one: of one codec and one size."""
    kinds = set()
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            kinds.add((stream.codec.name, stream.width, stream.height))
    return len(kinds) == 1


def quoted(path: Path) -> str:
    """A path as the ffmpeg program's playlists spell it."""
    return "'" + str(path).replace("'", r"'\''") + "'"


def decode_by_program(*videos: str) -> None:
    """Decode with the ffmpeg program, in one thread, what its arguments name; fail at any error."""
    options = ["-v", "error", "-xerror", "-threads", "1"]
    subprocess.run(["ffmpeg", *options, *videos, "-f", "null", "-"], check=True)


def preprocess_folder(root: Path, params: PreprocessParams, output: Path, workers: int) -> None:
    """The preprocess stage without its output on the terminal."""
    with open(os.devnull, "w") as silence, redirect_stdout(silence), redirect_stderr(silence):
        preprocess(
            DataParams(root=root, search_list=None, split_list=None, caption_suffix=None),
            params,
            output,
            workers,
        )


def measure(name: str, run: Callable[[], None], num_clips: int, repeats: int) -> dict[str, str | list[float]]:
    """Clips per second, and CPU milliseconds a clip of this process and its children, of each repetition."""
    rates, cpu = [], []
    for _ in range(repeats):
        wall, busy = time.perf_counter(), cpu_seconds()
        run()
        rates.append(num_clips / (time.perf_counter() - wall))
        cpu.append(1000 * (cpu_seconds() - busy) / num_clips)
    return {"work": name, "clips per second": rates, "CPU ms per clip": cpu}


def cpu_seconds() -> float:
    """Of this process and the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def table(rows: Sequence[dict]) -> str:
    """Markdown: medians, ranges, and the ratio to plain decoding in as many processes."""
    median_rate = {row["work"]: statistics.median(row["clips per second"]) for row in rows}
    lines = ["| work | clips/s (range) | CPU ms a clip | of plain decoding |", "| --- | --- | --- | --- |"]
    for row in rows:
        name, rates = row["work"], row["clips per second"]
        _, comma, processes = name.partition(", ")
        plain = f"plain decoding{comma}{processes}" if processes.endswith("processes") else "plain decoding"
        ratio = median_rate[name] / median_rate[plain]
        spread = f"{median_rate[name]:.1f} ({min(rates):.1f}-{max(rates):.1f})"
        lines.append(f"| {name} | {spread} | {statistics.median(row['CPU ms per clip']):.1f} | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
