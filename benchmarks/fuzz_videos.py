"""Damaged video files: each gives a clip or a reason, within seconds and with little memory.

    nice python benchmarks/fuzz_videos.py --files 2000 --keep /tmp/failures

Videos in over twenty kinds of containers are made, damaged by a seeded generator, and read as preprocessing
and `lora-tta continue` read them, each in a process of its own. A process that dies, raises anything but a
reason for a rejection, prints anything, takes longer than --seconds or more memory than --megabytes is a
failure: its file is kept, and the exit status is 1.
"""

import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from fuzzing import Ended, fuzz_parser, in_a_process, keep_failure
from mutations import mutate

from lora_tta.data.excerpt import read_excerpt
from lora_tta.data.rejection import RejectedError, Rejection
from lora_tta.data.transcode import ClipFormat, transcode
from lora_tta.data.ucf101 import Source
from lora_tta.data.windows import Windows

NUM_FRAMES, HEIGHT, WIDTH = 72, 96, 128
# A process of such a size is stopped, before it hurts others.
ADDRESS_SPACE = 6 * 2**30
OUTCOMES = {0: "clip", 1: "rejected"}


@dataclass(frozen=True)
class Kind:
    """A container with a codec."""

    suffix: str
    codec: str
    container: str | None = None
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()
    container_options: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] = (HEIGHT, WIDTH)

    @property
    def name(self) -> str:
        """Of the container and the codec."""
        return f"{self.container or self.suffix}/{self.codec}"


GOPS = (("g", "24"), ("bf", "2"))
KINDS = (
    Kind("mp4", "libx264", options=GOPS),
    Kind("mp4", "libx264", options=GOPS, container_options=(("movflags", "frag_keyframe+empty_moov"),)),
    Kind("mp4", "libx265", options=(("x265-params", "log-level=none"),)),
    Kind("mp4", "libsvtav1", options=(("preset", "12"),)),
    Kind("mov", "prores_ks", pix_fmt="yuv422p10le"),
    Kind("m4v", "mpeg4", container="mp4"),
    Kind("3gp", "h263", size=(144, 176)),
    Kind("avi", "mpeg4"),
    Kind("avi", "libx264", options=GOPS),
    Kind("avi", "mjpeg", pix_fmt="yuvj420p"),
    Kind("mkv", "libx264", container="matroska", options=GOPS),
    Kind("mkv", "ffv1", container="matroska"),
    Kind("webm", "libvpx", options=(("deadline", "realtime"),)),
    Kind("webm", "libvpx-vp9", options=(("deadline", "realtime"), ("cpu-used", "8"))),
    Kind("ts", "libx264", container="mpegts", options=GOPS),
    Kind("m2ts", "mpeg2video", container="mpegts", options=GOPS),
    Kind("mpg", "mpeg2video", container="mpeg", options=GOPS),
    Kind("vob", "mpeg2video"),
    Kind("flv", "flv"),
    Kind("wmv", "wmv2", container="asf"),
    Kind("ogv", "libvpx", container="ogg", options=(("deadline", "realtime"),)),
    Kind("gif", "gif", pix_fmt="rgb8"),
    Kind("apng", "apng", pix_fmt="rgb24"),
    Kind("nut", "mpeg4"),
    Kind("mxf", "mpeg2video"),
    Kind("ivf", "libvpx", options=(("deadline", "realtime"),)),
    Kind("h264", "libx264", options=GOPS),
    Kind("mjpeg", "mjpeg", pix_fmt="yuvj420p"),
    Kind("rm", "rv20", size=(144, 176)),
    Kind("y4m", "rawvideo", container="yuv4mpegpipe"),
)


def main() -> int:
    """Make, damage and read files; print what became of them."""
    parser = fuzz_parser(__doc__, files=2000, seconds=10.0)
    parser.add_argument("--megabytes", type=float, default=1024)
    arguments = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    os.environ["SVT_LOG"] = "-1"
    generator = random.Random(arguments.seed)
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    failures: list[str] = []
    slowest, largest = (0.0, ""), (0.0, "")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = _whole_files(folder, min(arguments.files, len(KINDS)))
        contents = list(whole.values())
        for number in range(arguments.files):
            kind = list(whole)[number % len(whole)]
            path = folder / f"{number}.{kind.suffix}"
            path.write_bytes(mutate(whole[kind], contents, generator))
            ended = in_a_process(
                lambda path=path: _read(path), arguments.seconds, folder / "printed", ADDRESS_SPACE
            )
            outcome = _outcome_of(ended)
            if outcome in OUTCOMES.values() and ended.megabytes > arguments.megabytes:
                outcome = f"took {ended.megabytes:.0f} MiB"
            name = f"file {number} ({kind.name})"
            slowest = max(slowest, (ended.seconds, name))
            largest = max(largest, (ended.megabytes, name))
            outcomes[kind.name][outcome] += 1
            if outcome not in OUTCOMES.values():
                failures.append(f"{name}: {outcome}")
                print(failures[-1], flush=True)
                keep_failure(arguments.keep, path, path.name)
            path.unlink()
            if number % 100 == 99:
                print(f"{number + 1} files in {time.perf_counter() - began:.0f} s", flush=True)
    for name, counts in outcomes.items():
        print(f"{name:<22} {', '.join(f'{count} {outcome}' for outcome, count in counts.most_common())}")
    total = sum(outcomes.values(), Counter())
    print(
        f"{arguments.files} files of {len(outcomes)} kinds: {total['clip']} gave clips, "
        f"{total['rejected']} a reason, {len(failures)} failed; slowest: {slowest[0]:.1f} s, {slowest[1]}; "
        f"largest: {largest[0]:.0f} MiB, {largest[1]}"
    )
    return 1 if failures else 0


def _whole_files(folder: Path, count: int) -> dict[Kind, bytes]:
    """The first kinds; each file gives a clip."""
    files = {}
    for number, kind in enumerate(KINDS[:count]):
        path = folder / f"whole-{number}.{kind.suffix}"
        _encode(path, kind)
        result = transcode(Source(path, "a", f"whole-{number}"), folder, folder, clip_format())
        assert not isinstance(result, Rejection), f"{kind.name} is not read: {result}"
        files[kind] = path.read_bytes()
    return files


def clip_format() -> ClipFormat:
    """Small clips."""
    windows = Windows(length=65, place="middle", count=1, stride=None, seed=0)
    return ClipFormat(size=(48, 64), fps=24, conditioning_frames=33, windows=windows)


def _encode(path: Path, kind: Kind) -> None:
    height, width = kind.size
    y, x = np.mgrid[:height, :width]
    options = dict(kind.options)
    with av.open(str(path), "w", format=kind.container, options=dict(kind.container_options)) as container:
        stream = container.add_stream(kind.codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, kind.pix_fmt
        for number in range(NUM_FRAMES):
            waves = [np.sin((x + 2 * number) / 9 + phase) + np.cos(y / 7) for phase in (0, 2, 4)]
            pixels = (120 + 50 * np.stack(waves, axis=-1)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame.reformat(format=kind.pix_fmt)))
        container.mux(stream.encode())


def _read(path: Path) -> int:
    """As preprocessing does, and as one's own video is read; 0 for a clip, 1 for a reason."""
    result = transcode(Source(path, "a", path.stem), path.parent, path.parent, clip_format())
    try:
        read_excerpt(path, (48, 64), 24, 65)
    except RejectedError:
        return 1
    return int(isinstance(result, Rejection))


def _outcome_of(ended: Ended) -> str:
    if ended.death:
        return ended.death
    if ended.printed:
        return f"printed {ended.printed.splitlines()[-1]}"
    return OUTCOMES[ended.status]


if __name__ == "__main__":
    sys.exit(main())
