"""Damaged settings: each `params.yaml` is read, or refused in one line that says why.

    python benchmarks/fuzz_params.py --files 2000

The repository's file is damaged by a seeded generator: values of other types, names that are wrong, lines
that are lost, doubled or moved, YAML's own tricks, and bytes. Anything but settings or a `UserError` of one
line is a failure, and so is a file that takes longer than --seconds. The exit status is 1 if there is one.
"""

import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

from fuzzing import fuzz_parser, keep_failure
from mutations import mutate

from lora_tta.config import load_params
from lora_tta.errors import UserError

ORIGINAL = Path(__file__).parents[1] / "params.yaml"
_TEXT = r"""
null  ~  true  false  yes  0  1  -1  4  33  1e400  -0.0  .inf  -.inf  .nan  0x1F  0o17  1_000  1e-3  12:30:45
2020-01-01  99999999999999999999999999  ""  "a b"  'it''s'  text  a/b  ../../etc  "\x00"  "\ud800"  ä漢  |  >
sqlite:///x  postgresql://u:p@h/d  http://  []  [1]  [[[[]]]]  {}  {a: 1}  {a: {b: {c: []}}}  [null]  [lora, "1"]
[rank, rank]  {name: lora}  {name: nothing}  {name: [lora]}  &a  *a  *nothing  &a [*a]  !!binary  !!set {a}
!!python/object:os.system  !!int 1.5  !!float x  !tag  #  -  ?  @  %  `  <<:  [1,2  {a:  "("  "[a-"  [true, 1]
[{metric: psnr, direction: minimize}]  [{metric: psnr}]  {rank: [x]}  {rank: [4, 4]}  {nothing: [1]}  {1: 2}
"""  # noqa: E501
VALUES = _TEXT.strip().replace("\n", "  ").split("  ")
LONG = ("9" * 5000, "[" * 500, "a" * 100_000, "{a: " * 300)


def main() -> int:
    """Damage and read; print what became of the files."""
    arguments = fuzz_parser(__doc__, files=2000, seconds=10).parse_args()
    generator = random.Random(arguments.seed)
    original = ORIGINAL.read_text(encoding="utf-8")
    outcomes: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "params.yaml"
        for number in range(arguments.files):
            path.write_bytes(_damaged(original, generator))
            signal.alarm(arguments.seconds)
            outcome = _read(path)
            signal.alarm(0)
            outcomes[outcome.partition(":")[0]] += 1
            if outcome not in ("read", "refused"):
                print(f"file {number}: {outcome}", flush=True)
                keep_failure(arguments.keep, path, f"{number}.yaml")
    failed = arguments.files - outcomes["read"] - outcomes["refused"]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{arguments.files} files: {counts}; {failed} failed")
    return 1 if failed else 0


def _read(path: Path) -> str:
    try:
        load_params(path)
    except UserError as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"more than one line: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("took too long")


def _damaged(original: str, generator: random.Random) -> bytes:
    if generator.random() < 0.2:
        data = original.encode()
        return mutate(data, [data], generator)
    lines = original.splitlines()
    for _ in range(generator.choice((1, 1, 2, 5))):
        generator.choice(
            (_other_value, _other_value, _other_value, _other_name, _move, _lose, _double, _indent)
        )(lines, generator)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _any(lines: list[str], generator: random.Random) -> int:
    return generator.randrange(len(lines))


def _value(generator: random.Random) -> str:
    return generator.choice(LONG) if generator.random() < 0.02 else generator.choice(VALUES)


def _other_value(lines: list[str], generator: random.Random) -> None:
    place = _any(lines, generator)
    name, colon, _ = lines[place].partition(":")
    lines[place] = f"{name}{colon or ':'} {_value(generator)}"


def _other_name(lines: list[str], generator: random.Random) -> None:
    place = _any(lines, generator)
    name, colon, value = lines[place].partition(":")
    stripped = name.lstrip()
    changed = generator.choice((stripped[:-1], stripped.upper(), _value(generator), "seed"))
    lines[place] = f"{name[: len(name) - len(stripped)]}{changed}{colon}{value}"


def _move(lines: list[str], generator: random.Random) -> None:
    lines.insert(_any(lines, generator), lines.pop(_any(lines, generator)))


def _lose(lines: list[str], generator: random.Random) -> None:
    place = _any(lines, generator)
    del lines[place : min(place + generator.choice((1, 1, 5, 50)), len(lines) - 1)]


def _double(lines: list[str], generator: random.Random) -> None:
    lines.insert(_any(lines, generator), lines[_any(lines, generator)])


def _indent(lines: list[str], generator: random.Random) -> None:
    place = _any(lines, generator)
    lines[place] = generator.choice(("  ", "\t", " ", "- ")) + lines[place]


if __name__ == "__main__":
    sys.exit(main())
