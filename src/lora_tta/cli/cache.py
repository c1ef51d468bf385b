"""``lora-tta cache``: the content of the cache of finished work."""

import argparse
from typing import Any

from lora_tta.config import load_params


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("cache", help="content of the cache of finished work")
    parser.add_argument(
        "--max-gigabytes", type=float, help="remove leftovers, and the least recently used entries above this"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print entries, leases and leftovers by kind; remove what the limit leaves no room for."""
    from lora_tta.cache.store import ContentCache

    params = load_params().cache
    cache = ContentCache(params.path, params.max_bytes)
    if arguments.max_gigabytes is not None:
        print(f"removed {cache.evict(int(arguments.max_gigabytes * 1e9))} entries")
    for usage in (*cache.usage(), cache.leftovers()):
        leased = f", {usage.leased} leased" if usage.leased else ""
        print(f"{usage.kind:<14}{usage.entries:>8} entries{usage.bytes / 1e6:>12.1f} MB{leased}")
    print(f"in {params.path}, limited to {params.max_gigabytes:g} GB; leased entries are in use")
