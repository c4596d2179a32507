"""What stays of requests once they are answered: ``python -m tests.leaks FOLDER`` prints it.

For each kind of request one line, ``kind status bytes alive``: the memory that is more after
REQUESTS of a megabyte than before, and how many of them can still be reached, both with the
garbage collector disabled.
"""

from __future__ import annotations

import asyncio
import csv
import gc
import gzip
import io
import json
import logging
import sys
import tracemalloc
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scoring_runtime import Settings, build
from scoring_runtime.cache.build import caching
from scoring_runtime.http.endpoint import create
from scoring_runtime.http.messages import HttpRequest

REQUESTS = 4
MEGABYTE = 1_000_000
_SCHEMA = """
import numpy as np, pandas as pd
from inference_schema.schema_decorators import input_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from scoring_runtime.errors import InputError
def init(): pass
"""
_ARRAY = f"""{_SCHEMA}
@input_schema("data", NumpyParameterType(np.array([[1.0, 2.0]])))
"""
_TABLE = f"""{_SCHEMA}
@input_schema("data", PandasParameterType(pd.DataFrame({{"a": [1.0], "b": ["x"]}})))
def run(data): return len(data)
"""
_RAISES = "raise ValueError('no')"
_KEEPS = (
    "\n try: data + 1\n except TypeError as error:\n  cause = error\n  raise ValueError from cause"
)
_GROUP = "raise ExceptionGroup('', [ValueError()]) from ValueError()"
_ODD = """
class Odd(Exception):
    exceptions = 1
    def __bool__(self): raise OSError
"""
_OWN = "raise InputError('no')"
_TEXT = "from scoring_runtime.errors import InputError\ndef init(): pass\ndef run(data): {}"
_ASYNC = "import asyncio\ndef init(): pass\nasync def run(data):\n await asyncio.sleep(0)\n {}"
_BATCHED = (
    "import time\nfrom scoring_runtime import InputError, batched\ndef init(): pass\n"
    "@batched\ndef run(data): {}"
)
_RAW = """
from scoring_runtime import rawhttp
def init(): pass
@rawhttp
def run(request): return len(request.get_data())
"""
_SLOW = "import time\ndef init(): pass\ndef run(data): time.sleep(0.05)"
_MODEL = ""
_ONE, _ONE_ARRAY = _TEXT.format("return 1"), _ARRAY + "def run(data): return 1"
_ROWS = json.dumps({"data": [[0.5, 1.5]] * (MEGABYTE // 12)}).encode()
_TEXT_BODY = b"x" * MEGABYTE


class Kind(NamedTuple):
    """A script (empty: a model), and a request with the status that it gets."""

    script: str
    body: bytes | None
    status: int
    content_type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    path: str = "/score"
    environ: tuple[tuple[str, str], ...] = ()


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, 1)


def _records(rows: int) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([["a", "b"], *[[1, "x"]] * rows])
    return out.getvalue().encode()


_ENCODED = ((b"content-encoding", b"gzip"),)
_CACHED = (("CACHE_URL", "memory://"),)
_IN_BATCHES = (("SCORING_MAX_BATCH_SIZE", "8"),)
_MIXED = b'{"data": [' + b"[0.5, 1.5], " * (MEGABYTE // 12) + b'["x", 2]]}'
_TABLE_BODY = _records(MEGABYTE // 5)
KINDS = {
    "answered": Kind(_TEXT.format("return len(data)"), _TEXT_BODY, 200),
    "answered raw": Kind(_RAW, _TEXT_BODY, 200),
    "answered schema": Kind(_ARRAY + "def run(data): return len(data)", _ROWS, 200),
    "answered CSV": Kind(_TABLE, _TABLE_BODY, 200, "text/csv"),
    "answered cached": Kind(_TEXT.format("return len(data)"), _TEXT_BODY, 200, environ=_CACHED),
    "not text": Kind(_ONE, b"\xff" * MEGABYTE, 400),
    "not gzip": Kind(_ONE, _TEXT_BODY, 400, headers=_ENCODED),
    "cut gzip": Kind(
        _ONE, _gzip(np.random.default_rng(1).bytes(MEGABYTE))[:-9], 400,
        headers=_ENCODED,
    ),
    "gzip bomb": Kind(
        _ONE, _gzip(b"x" * 3 * MEGABYTE), 413, headers=_ENCODED,
        environ=(("SCORING_MAX_BODY_BYTES", "2000000"),),
    ),
    "coding unknown": Kind(
        _ONE, _TEXT_BODY, 415, headers=((b"content-encoding", b"br"),)
    ),
    "not JSON": Kind(_ONE_ARRAY, _ROWS[:-2], 400),
    "other name": Kind(_ONE_ARRAY, b'{"x": ' + _ROWS + b"}", 400),
    "schema mismatch": Kind(_ONE_ARRAY, _MIXED, 400),
    "table mismatch": Kind(_TABLE, b'{"data":[' + b'{"a":"no","b":"x"},' * 50_000 + b"{}]}", 400),
    "content type": Kind(_ONE_ARRAY, _ROWS, 415, "text/html"),
    "ragged CSV": Kind(_TABLE, _TABLE_BODY + b"1\n", 400, "text/csv"),
    "quote in CSV": Kind(_TABLE, _TABLE_BODY + b'"x"y\n' + _TABLE_BODY, 400, "text/csv"),
    "too many rows of CSV": Kind(
        _TABLE, _TABLE_BODY, 413, "text/csv", environ=(("SCORING_MAX_ROWS", "1000"),)
    ),
    "JSON Lines": Kind(_TABLE, b'{"a":1,"b":"x"}\n' * 60_000 + b"{", 400, "application/jsonl"),
    "npy": Kind(_ONE_ARRAY, b"\x93NUMPY" + _TEXT_BODY, 400, "application/x-npy"),
    "too large": Kind(
        _ONE, _TEXT_BODY, 413, environ=(("SCORING_MAX_BODY_BYTES", "9"),)
    ),
    "run() raises": Kind(_TEXT.format(_RAISES), _TEXT_BODY, 500),
    "run() raises, cached": Kind(_TEXT.format(_RAISES), _TEXT_BODY, 500, environ=_CACHED),
    "run() keeps its error": Kind(_TEXT.format(_KEEPS), _TEXT_BODY, 500),
    "run() raises one error": Kind(
        "ERROR = ValueError()\n" + _TEXT.format("raise ERROR"), _TEXT_BODY, 500
    ),
    "run() raises an odd error": Kind(_ODD + _TEXT.format("raise Odd"), _TEXT_BODY, 500),
    "run() raises a group": Kind(_TEXT.format(_GROUP), _TEXT_BODY, 500),
    "run() refuses": Kind(_TEXT.format(_OWN), _TEXT_BODY, 400),
    "run() exits": Kind(_TEXT.format("raise SystemExit(3)"), _TEXT_BODY, 500),
    "schema run() raises": Kind(_ARRAY + f"def run(data): {_RAISES}", _ROWS, 500),
    "schema run() refuses": Kind(_ARRAY + f"def run(data): {_OWN}", _ROWS, 400),
    "no JSON of it": Kind(_TEXT.format("return {'data': data, 'x': object()}"), _TEXT_BODY, 500),
    "async answered": Kind(_ASYNC.format("return 1"), _TEXT_BODY, 200),
    "async raises": Kind(_ASYNC.format(_RAISES), _TEXT_BODY, 500),
    "async, not text": Kind(_ASYNC.format("return 1"), b"\xff" * MEGABYTE, 400),
    "timeout": Kind(_SLOW, _TEXT_BODY, 500, environ=(("SCORING_TIMEOUT_MS", "20"),)),
    "async timeout": Kind(
        _ASYNC.format("await asyncio.sleep(0.05)"), _TEXT_BODY, 500,
        environ=(("SCORING_TIMEOUT_MS", "20"),),
    ),
    "batched answered": Kind(_BATCHED.format("return [1] * len(data)"), _TEXT_BODY, 200),
    "batched raises": Kind(_BATCHED.format(_RAISES), _TEXT_BODY, 500),
    "batched refuses": Kind(_BATCHED.format(_OWN), _TEXT_BODY, 400),
    "batched is too short": Kind(_BATCHED.format("return []"), _TEXT_BODY, 500),
    "batched, not text": Kind(_BATCHED.format("return data"), b"\xff" * MEGABYTE, 400),
    "batched timeout": Kind(
        _BATCHED.format("time.sleep(0.05)"), _TEXT_BODY, 500,
        environ=(("SCORING_TIMEOUT_MS", "20"),),
    ),
    "batched model answers": Kind(_MODEL, _ROWS, 200, environ=_IN_BATCHES),
    "batched model refuses": Kind(_MODEL, _MIXED, 400, environ=_IN_BATCHES),
    "no such model": Kind(_MODEL, _ROWS, 404, path="/score/other"),
    "model answers": Kind(_MODEL, _ROWS, 200),
    "model refuses": Kind(_MODEL, _MIXED, 400),
    "V2 refuses": Kind(_MODEL, b'{"inputs": [' + _ROWS + b"]}", 400, path="/v2/models/m/infer"),
    "Accept": Kind(_MODEL, _ROWS, 406, headers=((b"accept", b"text/html"),)),
}  # fmt: skip


class _Headers(list[tuple[bytes, bytes]]):
    """A list that weak references can be made to."""


async def _sent(handle: Any, kind: Kind) -> tuple[int, weakref.ref[Any]]:
    headers = _Headers([(b"content-type", kind.content_type.encode()), *kind.headers])
    body = None if kind.body is None else bytes(bytearray(kind.body))
    reply = await handle(HttpRequest("POST", kind.path, b"", headers, body, ""))
    return reply.status, weakref.ref(headers)


async def _measure(name: str, kind: Kind, settings: Settings) -> str:
    runtime = build(settings)
    runtime.start()
    await runtime.started()
    handle = create(runtime, caching(runtime).score)[1]
    for _ in range(2):
        await _sent(handle, kind)
    await asyncio.sleep(0.2)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    sent = [await _sent(handle, kind) for _ in range(REQUESTS)]
    # The last thing that a thread has done may not have ended: a run() after its deadline, a log.
    for _ in range(100):
        await asyncio.sleep(0.02)
        grown = tracemalloc.get_traced_memory()[0] - before
        alive = sum(each() is not None for _, each in sent)
        if grown < MEGABYTE and not alive:
            break
    statuses = {status for status, _ in sent}
    await runtime.stop()
    assert statuses == {kind.status}, (name, statuses)
    return f"{name}\t{grown}\t{alive}"


def main(folder: Path, wanted: list[str]) -> None:
    """Print a line for each kind."""
    logging.disable(logging.CRITICAL)
    tracemalloc.start()
    gc.disable()
    for name in wanted or KINDS:
        kind = KINDS[name]
        environ = {"AML_APP_ROOT": str(folder), **dict(kind.environ)}
        if kind.script:
            script = folder / "score.py"
            script.write_text(kind.script, encoding="utf-8")
            environ["AZUREML_ENTRY_SCRIPT"] = "score.py"
        else:
            environ["AZUREML_MODEL_DIR"] = str(folder / "m")
        print(asyncio.run(_measure(name, kind, Settings.from_environ(environ))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
