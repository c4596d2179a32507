"""What reads Accept, queries and parameters may be needed first by several threads at once."""

from __future__ import annotations

import subprocess
import sys

THREADS = """
import threading
from scoring_runtime.formats.by_accept import negotiated
from scoring_runtime.formats.by_content_type import read
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.values.body import query_pairs
from scoring_runtime.values.content import Limits

csv = ScoringRequest(b"1,2", ((b"content-type", b"text/csv; header=absent"),))
ways = [
    lambda: query_pairs(b"a=1"),
    lambda: negotiated(b"text/csv, */*;q=0.1"),
    lambda: read(csv, Limits(9, 9, 99)),
]
together, failed = threading.Barrier(3), []

def first(way):
    together.wait()
    try:
        way()
    except Exception as error:
        failed.append(repr(error))

threads = [threading.Thread(target=first, args=(way,)) for way in ways]
for each in threads:
    each.start()
for each in threads:
    each.join()
assert not failed, failed
"""


def test_threads_may_need_werkzeug_first_at_once() -> None:
    """Its modules import each other in a circle."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
