"""Sleeps for as many seconds as its input says; a negative number raises instead."""

import time


def init():
    pass


def run(data):
    seconds = float(data)
    if seconds < 0:
        raise {-1: TimeoutError, -2: SystemExit, -3: KeyboardInterrupt}[int(seconds)]("by run()")
    print("sleeping", seconds)
    time.sleep(seconds)
    return seconds
