# mypy: ignore-errors
"""Tells what a script sees of its process: modules, paths, environment, threads."""

import logging
import os
import sys
import threading

inits = []
print("printed while it was imported")


def init():
    inits.append(threading.get_ident())
    print("printed", "by init", 1, sep="-")
    print("to stderr", file=sys.stderr)
    logging.getLogger("my.model").info("logged by the script")


def run(data):
    return {
        "name": __name__,
        "file": __file__,
        "module": sys.modules[__name__].__dict__ is globals(),
        "cwd": os.getcwd(),
        "path": sys.path,
        "environ": dict(os.environ),
        "pid": os.getpid(),
        "inits": inits,
        "thread": threading.get_ident(),
    }
