"""Damage to files: what disks, downloads and hostile hands do, drawn by a seeded generator."""

import random
from collections.abc import Callable, Sequence

_EXTREMES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\0\0\0\x01")


def mutate(data: bytes, others: Sequence[bytes], generator: random.Random) -> bytes:
    """One or two changes of a file's bytes; ``others`` are files that it may be spliced with."""
    mutated = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2))):
        generator.choice(_CHANGES)(mutated, others, generator)
    return bytes(mutated)


def _place(data: bytearray, generator: random.Random) -> int:
    """Anywhere, and now and then where headers are."""
    return (
        generator.randrange(min(len(data), 1024) if generator.random() < 0.25 else len(data)) if data else 0
    )


def _flip_bits(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    for _ in range(generator.choice((1, 3, 30)) if data else 0):
        data[_place(data, generator)] ^= 1 << generator.randrange(8)


def _overwrite(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    place, length = _place(data, generator), generator.choice((1, 8, 64, 1024))
    data[place : place + length] = generator.randbytes(min(length, len(data) - place))


def _blank(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    place, length = _place(data, generator), generator.choice((16, 512, 4096))
    data[place : place + length] = bytes(min(length, len(data) - place))


def _cut_end(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    del data[_place(data, generator) :]


def _cut_beginning(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    del data[: _place(data, generator)]


def _cut_out(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    place = _place(data, generator)
    del data[place : place + generator.choice((1, 7, 188, 5000))]


def _insert(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    place = _place(data, generator)
    data[place:place] = generator.randbytes(generator.choice((1, 7, 188, 5000)))


def _repeat(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    place, length = _place(data, generator), generator.choice((188, 5000, len(data)))
    data[place:place] = data[place : place + length]


def _exchange(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    length = generator.choice((4, 188, 2000))
    one, other = sorted((_place(data, generator), _place(data, generator)))
    if one + length <= other and other + length <= len(data):
        data[one : one + length], data[other : other + length] = (
            data[other : other + length],
            data[one : one + length],
        )


def _extreme_number(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    for _ in range(generator.choice((1, 4))):
        place = _place(data, generator)
        data[place : place + 4] = generator.choice(_EXTREMES)[: max(len(data) - place, 0)]


def _splice(data: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    other = generator.choice(others)
    data[_place(data, generator) :] = other[generator.randrange(len(other)) :]


_CHANGES: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    _flip_bits,
    _overwrite,
    _blank,
    _cut_end,
    _cut_beginning,
    _cut_out,
    _insert,
    _repeat,
    _exchange,
    _extreme_number,
    _splice,
)
