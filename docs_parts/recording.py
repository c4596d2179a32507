"""The first minute as a recording: ``python -m docs_parts.recording`` runs it and writes it down.

It types the two commands of the README in a copy of the sources without ``.venv``, and writes what
comes, with its times, as an asciinema cast (docs/pictures/first-minute.cast). The SVG is made from
the cast, with pauses cut to two seconds.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CAST = REPOSITORY / "docs" / "pictures" / "first-minute.cast"
COLUMNS, IDLE, ROW, LETTER = 100, 2.0, 18, 7.83
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
# What pip says of this machine's own mirror.
_NOISE = re.compile(r"(\x1b\[33m)?WARNING: Location .*?\n(\x1b\[0m)?", re.DOTALL)
Event = tuple[float, str]


def commands() -> list[str]:
    """The first two shell blocks of the README."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return [each.strip() for each in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)[:2]]


def record() -> list[Event]:
    """Seconds since the start, and what the terminal shows then."""
    serve, curl = commands()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "scoring-runtime")
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name)
        begin = time.monotonic()
        events = [(0.0, f"$ {serve}\r\n")]
        server, terminal = _start(serve, copy)
        for text in _read(terminal, until="/swagger.json"):
            events.append((time.monotonic() - begin, _NOISE.sub("", text.replace(folder, "~"))))
        done = subprocess.run(
            ["bash", "-c", curl.replace("curl ", "curl -s --retry 9 --retry-connrefused ")],
            cwd=copy, check=True, capture_output=True, text=True,
        )  # fmt: skip
        at = time.monotonic() - begin
        events.append((at, "\r\n# in another terminal\r\n"))
        events += [(at + 1, f"$ {curl}\r\n"), (at + 1.5, f"{done.stdout}\r\n")]
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        return events


def _start(command: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ |= {"TERM": "xterm", "COLUMNS": str(COLUMNS), "PIP_PROGRESS_BAR": "off"}
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def _read(terminal: int, until: str) -> Iterator[str]:
    seen, end = "", time.monotonic() + 600
    while until not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 1)[0]:
            text = os.read(terminal, 65536).decode(errors="replace")
            seen += text
            yield text


# --- the picture ----------------------------------------------------------------------------------


def lines(events: list[Event]) -> list[Event]:
    """Each line of the terminal with the moment it is there, pauses cut, wrapped to its width."""
    found: list[Event] = []
    last = now = 0.0
    rest = ""
    for at, text in events:
        now, last = now + min(at - last, IDLE), at
        *whole, rest = (rest + _ESCAPES.sub("", text).replace("\r\n", "\n")).split("\n")
        for line in whole:
            line = line.rpartition("\r")[2]
            pieces = [line[i : i + COLUMNS] for i in range(0, len(line), COLUMNS)] or [""]
            found += [(now, piece) for piece in pieces]
    return found


def svg(events: list[Event]) -> str:
    """The recording as a picture that moves once, or is whole where motion is not wanted."""
    shown = lines(events)
    seconds = max(at for at, _ in events)
    width, height = round(COLUMNS * LETTER + 40), len(shown) * ROW + 62
    body = []
    for number, (at, line) in enumerate(shown):
        kind = "typed" if line.startswith(("$ ", "#")) else "said"
        body.append(
            f'<text class="{kind}" x="20" y="{number * ROW + 58}" '
            f'style="animation-delay:{at:.2f}s" xml:space="preserve">{escape(line)}</text>'
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">',
            "<title>A terminal: make serve, then curl</title>",
            "<style>text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;"
            "animation:show .01s both}.said{fill:#c9d1d9}.typed{fill:#7ee787}"
            ".bar{fill:#8b949e;animation:none}@keyframes show{from{opacity:0}to{opacity:1}}"
            "@media (prefers-reduced-motion:reduce){text{animation:none}}</style>",
            f'<rect width="{width}" height="{height}" rx="10" fill="#161b22" stroke="#3d444d"/>',
            '<circle cx="20" cy="18" r="5" fill="#f85149"/><circle cx="38" cy="18" r="5" '
            'fill="#d29922"/><circle cx="56" cy="18" r="5" fill="#3fb950"/>',
            f'<text class="bar" x="{width - 20}" y="22" text-anchor="end">took {seconds:.0f} s in '
            "all, pauses are cut to 2 s</text>",
            *body,
            "</svg>\n",
        ]
    )


def read() -> list[Event]:
    """The events of the cast."""
    _, *kept = CAST.read_text(encoding="utf-8").splitlines()
    return [(at, text) for at, _, text in map(json.loads, kept)]


def write(events: list[Event]) -> None:
    """An asciinema cast, version 2: https://docs.asciinema.org/manual/asciicast/v2/"""
    head = {"version": 2, "width": COLUMNS, "height": 30, "idle_time_limit": IDLE}
    kept = [json.dumps([round(at, 3), "o", text]) for at, text in events]
    CAST.write_text("\n".join([json.dumps(head), *kept]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(record())
    CAST.with_suffix(".svg").write_text(svg(read()), encoding="utf-8")
