"""The fixture ``scoring``, in every run of pytest where this package is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .under_test import UnderTest


@pytest.fixture
def scoring() -> Iterator[Callable[..., UnderTest]]:
    """``score = scoring("score.py", model_dir="model", SCORING_NAN="string")``.

    See :func:`scoring_runtime.testing.scoring`; what it starts is stopped at the end of the test.
    """
    from .under_test import scoring as started

    with ExitStack() as stack:

        def start(*args: Any, **kwargs: Any) -> UnderTest:
            return stack.enter_context(started(*args, **kwargs))

        yield start
