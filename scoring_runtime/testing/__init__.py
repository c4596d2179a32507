"""Entry scripts and models in tests: scored as the hosts score, without a server.

``scoring`` is a pytest fixture, and a function for everybody else::

    def test_score(scoring):
        score = scoring("score.py", model_dir="model")
        assert score.http({"data": [[5.1, 3.5, 1.4, 0.2]]}).json() == [0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .outcomes import BlobOutcome, HttpOutcome, MessageOutcome
    from .under_test import UnderTest, scoring

__all__ = ["BlobOutcome", "HttpOutcome", "MessageOutcome", "UnderTest", "scoring"]


def __getattr__(name: str) -> Any:
    # Every run of pytest imports this package, which is to cost nothing.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import outcomes, under_test

    return getattr(outcomes if name.endswith("Outcome") else under_test, name)
