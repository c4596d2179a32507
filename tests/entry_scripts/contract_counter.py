# mypy: ignore-errors
"""Counts its init() calls in the file that COUNT_FILE names; with ASYNC_INIT, init() is async."""

import asyncio
import os

ready = False


def count():
    global ready
    with open(os.environ["COUNT_FILE"], "a") as file:
        file.write(f"{os.getpid()}\n")
    ready = True
    return "a value that nobody wants"


async def count_later():
    await asyncio.sleep(0.01)
    count()


init = count_later if os.environ.get("ASYNC_INIT") else count


def run(data):
    return [ready, os.getpid()]
