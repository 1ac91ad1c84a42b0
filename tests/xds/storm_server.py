"""An xDS server in a process of its own, which prints its port: python -m tests.xds.storm_server PORT SIZE."""

import asyncio
import sys
import time

from bench.pipe import raise_file_limit
from bench.served import Size, resources
from xds.cache import Cache
from xds.edge.grpcio import GrpcEdge
from xds.session import ControlPlane
from xds.snapshot import snapshot


async def serve(port: str, size: Size) -> None:
    """Serve until the process is killed."""
    cache = Cache()
    cache.publish(snapshot(resources(size)))
    edge = GrpcEdge(ControlPlane(cache), time.monotonic)
    sys.stdout.write(f"{await edge.start(f'127.0.0.1:{port}')}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    raise_file_limit()
    asyncio.run(serve(sys.argv[1], Size(*map(int, sys.argv[2].split("x")))))
