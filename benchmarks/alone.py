"""Calls per second of run() with nothing around it: ``python -m benchmarks.alone BODY``."""

import sys
import time
from pathlib import Path

from . import bare_app

content = Path(sys.argv[1]).read_bytes()
body = bare_app.Raw(content) if content.startswith(b"\x89PNG") else content.decode()
run = bare_app.script.run
until = time.perf_counter() + 0.3
while time.perf_counter() < until:
    run(body)
calls, begin = 0, time.perf_counter()
while time.perf_counter() - begin < 1:
    run(body)
    calls += 1
print(calls / (time.perf_counter() - begin))
