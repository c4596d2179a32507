"""Calls per second of a script's run() with nothing around it: ``python alone.py BODY``."""

import importlib.util
import os
import sys
import time

spec = importlib.util.spec_from_file_location("entry_module", os.environ["BENCH_SCRIPT"])
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.init()
body = sys.argv[1]
for _ in range(300):
    module.run(body)
calls, begin = 0, time.perf_counter()
while time.perf_counter() - begin < 2:
    module.run(body)
    calls += 1
print(calls / (time.perf_counter() - begin))
