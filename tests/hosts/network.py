"""A network of namespaces: each instance has its own interfaces, as on a machine of its own.

The machine itself is at ``address`` of a bridge, the namespaces are beside it. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from typing import NamedTuple, Self


class Place(NamedTuple):
    """Where an instance runs: the command that runs it there, and where it listens."""

    within: tuple[str, ...] = ()
    address: str = "127.0.0.1"


class Loopback:
    """Without namespaces: every instance on a port of its own."""

    def __init__(self, count: int) -> None:
        self.address = "127.0.0.1"
        self.places = [Place()] * count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class Network(Loopback):
    """`with Network(4) as network:` has four of ``network.places`` until the end."""

    def __init__(self, count: int) -> None:
        self._name = f"sc{os.getpid() % 1_000_000}"
        self._subnet = f"10.213.{os.getpid() % 250}"
        self.address = f"{self._subnet}.1"
        self.places = [
            Place(("ip", "netns", "exec", f"{self._name}-{number}"), f"{self._subnet}.{number + 2}")
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        bridge = self._name
        _ip("link", "add", bridge, "type", "bridge")
        try:
            _ip("addr", "add", f"{self.address}/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for number, place in enumerate(self.places):
                self._add(f"{bridge}-{number}", f"{bridge}v{number}", place.address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _add(self, name: str, outside: str, address: str) -> None:
        _ip("netns", "add", name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", self._name, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", name, "link", "set", device, "up")

    def __exit__(self, *exc_info: object) -> None:
        for number in range(len(self.places)):
            _ip("netns", "del", f"{self._name}-{number}", must=False)
        _ip("link", "del", self._name, must=False)


def network(count: int) -> Loopback:
    """Namespaces if they can be made here."""
    return Network(count) if can_be_made() else Loopback(count)


def can_be_made() -> bool:
    """Whether this process may make namespaces: as root with iproute2, which most may not."""
    name = f"scprobe{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    _ip("netns", "del", name, must=False)
    return True


def _ip(*words: str, must: bool = True) -> None:
    subprocess.run(["ip", *words], check=must, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
