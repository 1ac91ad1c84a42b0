"""The web page, built from rollout/web/src by esbuild: rollout/web/dist, which the wheel has and the server serves.

npm installs what package-lock.json names into rollout/web/node_modules; no script of a package is run. Without node the
package installs all the same, and `GET /` says how to get the page. By hand: `python build_page.py`, or `make page`.
"""

import gzip
import hashlib
import html
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

WEB = Path(__file__).parent / "rollout" / "web"
ENTRIES = ("boot.ts", "main.tsx", "style.css", "icon.svg")
INSTALL_LIMIT_S, BUILD_LIMIT_S = 300, 60
NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
ESBUILD = (
    "--bundle",
    "--minify",
    "--target=es2022",
    "--charset=utf8",
    "--format=esm",
    "--jsx=automatic",
    "--jsx-import-source=preact",
    "--loader:.svg=copy",
    "--entry-names=[name]-[hash]",
    "--legal-comments=eof",
    "--log-level=warning",
)


class NotBuilt(Exception):
    """Why there is no new page."""


def build_page(web: Path = WEB) -> str:
    """Build the page unless it is there already; return what was done. Raises NotBuilt."""
    stamp = sources_of(web)
    if built_from(web) == stamp:
        return "the page is up to date"
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotBuilt("it needs node and npm: `apt-get install nodejs npm`")
    install(web, *NPM, "--omit=dev")
    fresh = web / "dist.unfinished"
    shutil.rmtree(fresh, ignore_errors=True)
    entries = [f"src/{name}" for name in ENTRIES]
    run(web, BUILD_LIMIT_S, "node_modules/.bin/esbuild", *entries, *ESBUILD, f"--outdir={fresh.name}/assets")
    write_shell(web, fresh, stamp)
    shutil.rmtree(web / "dist", ignore_errors=True)
    fresh.rename(web / "dist")
    return f"the page is built: {sum(each.stat().st_size for each in packed(web / 'dist')):,} bytes on the line"


def sources_of(web: Path) -> str:
    """Name of what the page is made from: its sources, what it uses, and this file."""
    files = (Path(__file__), web / "package-lock.json", *sorted((web / "src").rglob("*")))
    digest = hashlib.sha256()
    for each in files:
        if each.is_file():
            digest.update(f"{each.name}\0".encode() + each.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def built_from(web: Path) -> str | None:
    """The sources of the page that is there, None where there is none."""
    try:
        found = json.loads((web / "dist" / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    return str(found.get("sources"))


def install(web: Path, *command: str) -> None:
    """Have what the page is built with, as the lock file names it."""
    here, wanted = web / "node_modules" / ".installed", web / "package-lock.json"
    stamp = f"{' '.join(command)} {hashlib.sha256(wanted.read_bytes()).hexdigest()}"
    whole = stamp.replace(" --omit=dev", "")
    if here.exists() and here.read_text() in (stamp, whole):
        return
    run(web, INSTALL_LIMIT_S, *command)
    here.write_text(stamp)


def run(web: Path, limit_s: float, *command: str) -> None:
    try:
        done = subprocess.run(command, cwd=web, timeout=limit_s, capture_output=True, text=True, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"`{command[0]}`: {error}") from error
    if done.returncode:
        raise NotBuilt(f"`{' '.join(command[:2])}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def write_shell(web: Path, fresh: Path, stamp: str) -> None:
    """Write index.html with the true names of what it loads, the packed copies, and the manifest."""
    names = {each.name.rpartition("-")[0]: each.name for each in (fresh / "assets").iterdir()}
    shell = (web / "src" / "index.html").read_text()
    for entry in ENTRIES:
        word = entry.partition(".")[0]
        shell = shell.replace("{" + word + "}", html.escape(f"/assets/{names[word]}"))
    (fresh / "index.html").write_text(shell)
    for each in (fresh / "index.html", *(fresh / "assets").iterdir()):
        each.with_name(f"{each.name}.gz").write_bytes(gzip.compress(each.read_bytes(), mtime=0))
    manifest: Mapping[str, object] = {"sources": stamp, "assets": sorted(names.values())}
    (fresh / "manifest.json").write_text(json.dumps(manifest) + "\n")


def packed(dist: Path) -> Iterator[Path]:
    return dist.rglob("*.gz")


def check_types(web: Path = WEB) -> None:
    """Check the page's types. Raises NotBuilt."""
    install(web, *NPM)
    run(web, BUILD_LIMIT_S, "node_modules/.bin/tsc", "--noEmit", "--project", "tsconfig.json")


def main(words: list[str]) -> int:
    try:
        if words == ["check"]:
            check_types()
        else:
            print(build_page())
    except NotBuilt as error:
        print(f"no page: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
