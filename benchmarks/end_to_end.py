"""The whole pipeline on GPUs, at full size with random weights: what is model work, and what is the rest.

Builds a pipeline folder of random weights (24 GB, small text encoders), takes the embedded clips at 192x336,
runs every stage by `dvc repro`, and takes the time of its processes apart. Run from the repository root:

    python benchmarks/end_to_end.py --gpus 1 --output one.json
    python benchmarks/end_to_end.py --gpus 4 --against one.json
    python benchmarks/end_to_end.py --gpus 0 --tiny --size 32 48 --set model.dtype=float32   # without a GPU

The folder keeps the model and the last outputs. A second run finds the compilers' caches warm, and does all
work again.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import torch
import yaml
from demo_breakdown import copy_repository
from machine import describe_cpu
from probe import (
    ADAPTATION,
    ENCODING,
    FIRST_USES,
    GENERATION,
    IMPORTS,
    KINDS,
    MODEL_KINDS,
    claim_wall,
    clear_log,
    probed_environment,
    read_log,
)

STAGES = ("preprocess", "encode", "baseline", "search", "adapt", "evaluate")
RANK, LEARNING_RATES, NUM_STEPS = 8, [1e-4, 2e-4, 4e-4, 8e-4], 20
SAMPLING_STEPS = 25
# The published search (preset opensora-v2): clips, pairs of rank and learning rate, numbers of steps of each.
CLIPS, PAIRS, STEPS = 100, 6, (20, 50, 100)
# The published code on an H200: seconds of an adaptation of 20 steps and of a generation.
PUBLISHED_ADAPTATION, PUBLISHED_STEPS, PUBLISHED_GENERATION = 11.3, 20, 16.1
TARGET_SHARE, TARGET_START, TARGET_COLD_START, TARGET_ENCODING, TARGET_SCALING = 0.92, 45, 120, 1.0, 3.7


def main() -> None:
    """Run the pipeline and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, required=True, help="of this machine, the first ones; 0: the CPU")
    parser.add_argument("--folder", type=Path, default=Path("end-to-end"), help="on a disk with 50 GB free")
    parser.add_argument("--clips", type=int, default=12, help="of the search")
    parser.add_argument("--test-clips", type=int, default=4, help="besides them")
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES, help="run these alone")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 336), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="changed settings")
    parser.add_argument("--against", type=Path, help="the --output of a run with one GPU, for the scaling")
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    parser.add_argument("--tiny", action="store_true", help="a model of the embedded one's size")
    arguments = parser.parse_args()
    # What a time limit cuts off shows how far it came.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    folder = arguments.folder.absolute()
    model = folder / ("tiny-model" if arguments.tiny else "model")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])}
    if not (model / "model_index.json").exists():
        began = time.perf_counter()
        options = [*(["--tiny"] if arguments.tiny else []), *([] if arguments.gpus else ["--device", "cpu"])]
        command = [sys.executable, "benchmarks/random_folder.py", "--folder", str(model), *options]
        subprocess.run(command, check=True, env=environment)
        print(f"random weights in {model}: {time.perf_counter() - began:.0f} s", flush=True)
    figures = {"date": f"{date.today()}", "machine": describe(arguments.gpus), "gpus": arguments.gpus}
    print("\n".join(f"{name}: {value}" for name, value in figures["machine"].items()), flush=True)
    figures["stages"] = {}
    for stage, run in run_pipeline(arguments, folder, model):
        figures["stages"][stage] = take_apart(run, stage)
        if stage == "search":
            figures |= summarize(figures["stages"], folder / "work")
        write(figures, arguments.output)  # what is cut off by a time limit leaves its stages
    print(stage_table(figures["stages"]))
    against = json.loads(arguments.against.read_text()) if arguments.against else None
    print("\n" + "\n".join(findings(figures, against)))


def write(figures: dict, output: Path | None) -> None:
    """Write the figures so far, if that is asked for."""
    if output:
        output.write_text(json.dumps(figures, indent=1) + "\n")


def describe(num_gpus: int) -> dict[str, str]:
    """What the figures were measured on."""
    names = {torch.cuda.get_device_name(index) for index in range(num_gpus)}
    return {
        "GPUs": f"{num_gpus} x {' and '.join(sorted(names))}" if names else "none",
        "torch": torch.__version__,
        "CPU": describe_cpu(),
    }


def run_pipeline(arguments: argparse.Namespace, folder: Path, model: Path) -> Iterator[tuple[str, dict]]:
    """Run all stages in a fresh copy; yield each one's processes with the wall clock of its command."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    copy_repository(work)
    (work / "models").mkdir(exist_ok=True)
    for name in ("random", "opensora-v2"):  # the preset looks for the second
        (work / "models" / name).symlink_to(model)
    environment = probed_environment(work / "probe", work / "src")
    if arguments.gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(64)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[: arguments.gpus])
    settings = [
        "model.path=models/random",
        f"model.device={'cuda' if arguments.gpus else 'cpu'}",
        f"preprocess.height={arguments.size[0]}",
        f"preprocess.width={arguments.size[1]}",
        f"preprocess.num_clips={arguments.clips + arguments.test_clips}",
        f"preprocess.search_clips={arguments.clips}",
        "evaluation.lpips=untrained",
        "search.num_clips=null",
        f"search.n_trials={arguments.trials}",
        f"search.space.rank=[{RANK}]",
        f"search.space.learning_rate={LEARNING_RATES[: arguments.trials]}",
        f"search.space.num_steps=[{NUM_STEPS}]",
        *arguments.set,
    ]
    lora_tta = [sys.executable, "-m", "lora_tta.cli.main"]
    run(["params", "--preset", "opensora-v2"], work, environment, lora_tta)
    run(["params", *settings], work, environment, lora_tta)
    run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], work, environment)
    for stage in arguments.stages:
        clear_log(work / "probe")
        start = time.time()
        run([sys.executable, "-m", "dvc", "repro", "--single-item", stage], work, environment)
        end = time.time()
        print(f"{stage}: {end - start:.1f} s", flush=True)
        yield stage, {"start": start, "end": end, "processes": read_log(work / "probe")}


def run(command: list[str], work: Path, environment: dict, prefix: Sequence[str] = ()) -> None:
    """Run a command in the copy; its output goes to a file, and is shown if the command fails."""
    log = work / "output.txt"
    try:
        with log.open("w") as file:
            subprocess.run(
                [*prefix, *command], cwd=work, env=environment, stdout=file, stderr=file, check=True
            )
    except (subprocess.CalledProcessError, SystemExit, KeyboardInterrupt) as error:
        raise SystemExit(f"{log.read_text()[-6000:]}\nerror: {' '.join(command)} failed: {error}") from None


def take_apart(stage: dict, name: str) -> dict:
    """The stage's wall seconds by kind, and the processes that worked with the model."""
    inside = [process for process in stage["processes"] if process["stage"] == name]
    slices = [piece for process in inside for piece in process["slices"]]
    begin = min(piece[1] for process in inside if process["main"] for piece in process["slices"])
    end = max(piece[2] for process in inside if process["main"] for piece in process["slices"])
    workers = [worker(process, begin, end) for process in inside]
    return {
        "wall": end - begin,
        "with DVC": stage["end"] - stage["start"],
        "by kind": claim_wall(slices, begin, end),
        "workers": [found for found in workers if found],
    }


def worker(process: dict, begin: float, end: float) -> dict | None:
    """Seconds of a process with the model: until its first clip, and after it."""
    main = [piece for piece in process["slices"] if piece[4]]
    model = [piece for piece in main if piece[0] in MODEL_KINDS]
    if not model:
        return None
    last = GENERATION if any(piece[0] == GENERATION for piece in model) else ENCODING
    # A clip is done when a piece of its last kind of work is followed by something else than compiling.
    ends = [
        piece[2]
        for piece, after in zip(main, [*main[1:], [None]], strict=True)
        if piece[0] == last and after[0] not in (FIRST_USES, last)
    ]
    first, done = ends[0], ends[-1]
    before = seconds_by_kind([piece for piece in main if piece[2] <= first])
    after = seconds_by_kind([piece for piece in main if piece[1] >= first and piece[2] <= done])
    busy = sum(after[kind] for kind in MODEL_KINDS)
    # A forked process begins with what the server has imported since the stage's command began.
    before[IMPORTS] += max(0.0, main[0][1] - begin)
    return {
        "clips": len(ends),
        "to first clip": first - begin - sum(before[kind] for kind in MODEL_KINDS),
        "start by kind": {kind: before[kind] for kind in KINDS if kind not in MODEL_KINDS},
        "window": [first, done],
        "share": busy / (done - first) if done > first else None,
        "share to the stage's end": busy / (end - first) if done > first else None,
        "rest by kind": {kind: after[kind] for kind in KINDS if kind not in MODEL_KINDS},
        "seconds": {kind: after[kind] for kind in MODEL_KINDS},
    }


def seconds_by_kind(pieces: list[list]) -> dict[str, float]:
    """Seconds of slices by their kind, 0 for the kinds that are not among them."""
    seconds = dict.fromkeys(KINDS, 0.0)
    for kind, start, end, *_ in pieces:
        seconds[kind] += end - start
    return seconds


def stage_table(stages: dict[str, dict]) -> str:
    """Markdown: a row for each stage, with the share of model work on each GPU and where the wall went."""
    kinds = [kind for kind in KINDS if any(stage["by kind"][kind] >= 0.05 for stage in stages.values())]
    lines = [
        f"\n| stage | wall s | to first clip, s | model work after it, each GPU | {' | '.join(kinds)} |",
        f"| --- | --- | --- | --- |{' --- |' * len(kinds)}",
    ]
    for name, stage in stages.items():
        first = ", ".join(f"{worker['to first clip']:.0f}" for worker in stage["workers"])
        shares = ", ".join(f"{worker['share']:.1%}" for worker in stage["workers"] if worker["share"])
        cells = [f"{stage['by kind'][kind]:.1f}" for kind in kinds]
        lines.append(f"| {name} | {stage['wall']:.1f} | {first} | {shares} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summarize(stages: dict[str, dict], work: Path) -> dict:
    """Seconds of a LoRA step and of a generation, from the costs of the search, and the rate of clips.

    Empty if no process had a second clip: the first one holds all first uses.
    """
    params = yaml.safe_load((work / "params.yaml").read_text())
    workers = [worker for worker in stages["search"]["workers"] if worker["clips"] > 1]
    if not workers:
        return {}
    later_clips = sum(worker["clips"] - 1 for worker in workers)
    adaptation, generation = (
        sum(worker["seconds"][kind] for worker in workers) / later_clips for kind in (ADAPTATION, GENERATION)
    )
    window = max(worker["window"][1] for worker in workers) - min(worker["window"][0] for worker in workers)
    return {
        "clips a trial": params["preprocess"]["search_clips"],
        "adaptation": adaptation,
        "generation": generation,
        "clips a second": later_clips / window,
    }


def findings(figures: dict, against: dict | None) -> list[str]:
    """What the run comes to, beside the targets and the published code."""
    stages = figures["stages"]
    worked = [stages[name] for name in ("baseline", "search", "adapt") if name in stages]
    workers = [worker for stage in worked for worker in stage["workers"]]
    shares = [worker["share"] for worker in workers if worker["share"]]
    starts = [worker["to first clip"] for worker in workers]
    share_line = (
        f"{min(shares):.1%} to {max(shares):.1%} (target {TARGET_SHARE:.0%})" if shares else "no second clip"
    )
    lines = [
        f"model work after a process's first clip: {share_line}",
    ]
    if starts:
        lines.append(
            f"from the stage's command to its first clip, without the clip's own work: {min(starts):.0f} to "
            f"{max(starts):.0f} s (target {TARGET_START} s, {TARGET_COLD_START} s with empty compiler caches)"
        )
    for encode in stages.get("encode", {}).get("workers", []):
        encoding = (encode["window"][1] - encode["window"][0]) / max(1, encode["clips"] - 1)
        lines.append(f"encode: {encoding:.2f} s a clip after the first (target {TARGET_ENCODING:.0f} s)")
    if "adaptation" in figures:
        lines += costs(figures, sum(shares) / len(shares))
    if against and "clips a second" in figures:
        ratio = figures["clips a second"] / against["clips a second"]
        lines.append(
            f"scaling of the search from 1 to {figures['gpus']} GPUs, clips a second after the first clips: "
            f"{ratio:.2f} times (target {TARGET_SCALING} for 4)"
        )
    return lines


def costs(figures: dict, share: float) -> list[str]:
    """What a clip, a trial and the published search cost; ``share`` is that of model work in the wall."""
    step, generation = figures["adaptation"] / NUM_STEPS, figures["generation"]
    clip = PAIRS * (max(STEPS) * step + len(STEPS) * generation)
    hours = CLIPS * (clip + generation) / 3600
    published_step = PUBLISHED_ADAPTATION / PUBLISHED_STEPS
    published = CLIPS * (PAIRS * (sum(STEPS) * published_step + len(STEPS) * PUBLISHED_GENERATION)) / 3600
    published += CLIPS * PUBLISHED_GENERATION / 3600
    per_clip, trial = figures["adaptation"] + generation, figures["clips a trial"]
    return [
        f"GPU-seconds of an adapted clip: {per_clip:.2f} ({figures['adaptation']:.2f} for {NUM_STEPS} steps, "
        f"{generation:.2f} to generate); of a trial of {trial} clips: {trial * per_clip:.0f}",
        f"computed: the published search ({CLIPS} clips, {PAIRS * len(STEPS)} points, {SAMPLING_STEPS} "
        f"sampling steps) takes {hours:.1f} GPU-hours of model work; {hours / share / 8:.2f} h on 8 GPUs at "
        "the mean share",
        f"computed: the published code takes {published:.1f} GPU-hours, {published / 8:.2f} h on 8 GPUs; it "
        "adapts anew for every point",
    ]


if __name__ == "__main__":
    main()
