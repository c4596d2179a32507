"""The request's id in the lines of the threads that a script starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, wraps
from typing import Any

from .logs import enter, request_id


def carry_ids() -> None:
    """From now on a thread, or a call of a pool's, that is begun for a request has its context.

    Python's own threads begin with an empty one (but for ``thread_inherit_context`` of 3.14).
    """
    if not hasattr(threading.Thread.start, "carries"):
        _carry_in_threads()
        _carry_in_pools()


def _carry_in_threads() -> None:
    start = threading.Thread.start

    @wraps(start)
    def start_in_context(self: threading.Thread) -> None:
        # A pool's threads stay for other requests: there each call has its own.
        if request_id.get() and not _is_of_pool(self):
            self.run = _in_context(self.run)  # type: ignore[method-assign]
        start(self)

    start_in_context.carries = True  # type: ignore[attr-defined]
    threading.Thread.start = start_in_context  # type: ignore[method-assign]


def _in_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, called as this thread would: its lines are the request's, and the invocation's."""
    context = copy_context()

    def called(*args: Any, **kwargs: Any) -> Any:
        enter.get()()
        return function(*args, **kwargs)

    return partial(context.run, called)


def _is_of_pool(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") in (
        "concurrent.futures.thread",
        "multiprocessing.pool",
    )


def _carry_in_pools() -> None:
    submit: Any = ThreadPoolExecutor.submit

    @wraps(submit)
    def submit_in_context(
        self: ThreadPoolExecutor, function: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        if request_id.get():
            function = _in_context(function)
        return submit(self, function, *args, **kwargs)

    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[method-assign, assignment]
