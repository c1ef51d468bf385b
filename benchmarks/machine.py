"""What a benchmark on the CPU ran on."""

import os
import platform
from pathlib import Path


def describe_cpu() -> str:
    """The processor's model, where the system tells, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
