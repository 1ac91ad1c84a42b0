"""What a server costs that has nothing to do: start-up time, CPU and memory, with three real Envoys connected.

python bench/idle.py [--seconds 20] [--json]
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from rollout.demo.world import Cast, World

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


async def measure(seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        async with World(Path(folder), Cast({"v1": 3}, {})) as world:
            await world.kill_server()
            began_s = time.monotonic()
            await world.start_server()
            start_s = time.monotonic() - began_s
            pid = world.server.pid
            assert pid is not None
            starting_cpu_s = cpu_s(pid)
            await asyncio.sleep(5)  # the Envoys come back
            before_s = cpu_s(pid)
            await asyncio.sleep(seconds)
            return {
                "start_s": round(start_s, 2),
                "start_cpu_s": round(starting_cpu_s, 2),
                "idle_cpu_percent": round(100 * (cpu_s(pid) - before_s) / seconds, 2),
                "memory_mib": round(memory_mib(pid), 1),
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    figures = asyncio.run(measure(wanted.seconds))
    if wanted.json:
        print(json.dumps(figures))
    else:
        print("an idle server with 3 Envoys:")
        for name, value in figures.items():
            print(f"  {name:18} {value:8}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
