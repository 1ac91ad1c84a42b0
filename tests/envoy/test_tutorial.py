"""docs/tutorial.md, done as it is written: each block in one shell, and what is to be done on the page in a browser."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import async_playwright, expect

from rollout.demo.processes import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
PORTS = ("8081", "8082", "8083", "8084", "8085", "8086", "8087", "8088", "9901", "9902", "10000", "18000", "18080")
BLOCK_LIMIT_S, BROWSER_LIMIT_MS = 240.0, 60_000
END = "--- done"


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    """Other ports than those that the page names: a test may not use fixed ones."""
    return {port: str(free_port()) for port in PORTS}


def blocks(text: str) -> Iterator[str]:
    """Yield the shell's blocks in order; PAGE where the page is used. What installs is not run again."""
    for kind, block in re.findall(r"```sh( install)?\n(.*?)```", text, re.DOTALL):
        if not kind:
            yield block


def moved(text: str, ports: dict[str, str]) -> str:
    """Put other ports into commands, and into those that rely on the usual ones."""
    text = re.sub(r"\b(" + "|".join(PORTS) + r")\b", lambda found: ports[found[0]], text)
    text = text.replace(
        "rollout serve", f"rollout serve --xds 127.0.0.1:{ports['18000']} --admin 127.0.0.1:{ports['18080']}"
    )
    return text.replace("rollout bootstrap", f"rollout bootstrap --xds 127.0.0.1:{ports['18000']}")


@dataclass
class Shell:
    """One bash, as the reader has it."""

    process: asyncio.subprocess.Process

    async def run(self, block: str) -> str:
        """Run a block; return what it has printed. It fails where any of its commands does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{block}\necho '{END}'\n".encode())
        said = ""
        async with asyncio.timeout(BLOCK_LIMIT_S):
            async for line in self.process.stdout:
                if line.decode().strip() == END:
                    return said
                said += line.decode()
        raise AssertionError(f"the shell ended in:\n{block}\n{said}")


@pytest.fixture
async def shell(tmp_path: Path, ports: dict[str, str]) -> AsyncIterator[Shell]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ROLLOUT_SERVER": f"http://127.0.0.1:{ports['18080']}"}
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-eo",
        "pipefail",
        cwd=tmp_path,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield Shell(process)
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.write(b"kill $(jobs -p); wait; exit 0\n")
            async with asyncio.timeout(BLOCK_LIMIT_S):
                await process.communicate()


async def test_the_tutorial_does_what_it_says(shell: Shell, ports: dict[str, str]) -> None:
    by_hand, on_page = PAGE.split("Open <http://")[0], PAGE.split("Open <http://")[1]
    said = [await shell.run(moved(block, ports)) for block in blocks(by_hand)]
    told = "".join(said)
    assert "edge-01" in told
    assert "edge-02" in told
    assert "x-backend: v1" in told
    assert "x-backend: v2" in told
    assert "safe to stop" in " ".join(told.split())
    await deploy_on_the_page(ports)
    watching, failing, *reading, ending = [*blocks(on_page)]
    assert "v3" in await shell.run(watching)
    assert "exit code 3" in await shell.run(moved(failing, ports))
    why = "".join([await shell.run(moved(block, ports)) for block in reading])
    assert re.search(r"requests of v4 against", why)
    assert "deploy" in why
    await shell.run("kill $(jobs -p); wait || true" if "wait" in ending else ending)


async def deploy_on_the_page(ports: dict[str, str]) -> None:
    program = shutil.which("chromium")
    if program is None:
        why = "there is no chromium here; on Debian: apt-get install --no-install-recommends chromium"
        assert not os.environ.get("CI"), why
        pytest.skip(why)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            page = await browser.new_page()
            page.set_default_timeout(BROWSER_LIMIT_MS)
            await page.goto(f"http://127.0.0.1:{ports['18080']}/")
            await page.get_by_role("link", name="checkout").first.click()
            await page.get_by_role("button", name="Deploy").click()
            dialog = page.get_by_role("dialog")
            await dialog.get_by_label("Version").fill("v3")
            await dialog.get_by_label("Backends").fill(f"127.0.0.1:{ports['8085']}\n127.0.0.1:{ports['8086']}")
            await dialog.get_by_label("Strategy", exact=True).select_option("quick")
            await expect(page.get_by_text("The server says:")).to_be_visible()
            await dialog.get_by_role("button", name="Deploy").click()
            await expect(dialog).to_be_hidden()
            await expect(page.get_by_text("v2 → v3").first).to_be_visible()
        finally:
            await browser.close()
