"""Real images for tests: a base image from debootstrap, and buildah with a storage of its own.

`python -m tests.hosts.images` installs buildah and debootstrap with apt where they are missing and
makes the base image under `.cache/`: Debian with Python 3.11 and pip, as near to
`python:3.11-slim` as that can be. Without root all of it goes through `sudo -n`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from scoring_runtime.packaging.image import Builder

BASE = "localhost/scoring-test-base"
_VERSION = "bookworm-2"
_CACHE = Path(__file__).parents[2] / ".cache"
_SUDO = [] if os.geteuid() == 0 else ["sudo", "-n"]
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = "python3,ca-certificates"
# That of the official image; Debian's own is patched.
_PIP = "pip==24.0"
# Images on a disk take twice as long.
_MEMORY = Path("/dev/shm")
_NEEDED_BYTES = 4 * 1024**3
# Where this machine has its certificates, if not where pip looks: read before fixtures run.
_CERTIFICATES = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
_CERTIFICATES_INSIDE = "/host-certificates.crt"
_INDEXES = [name for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ]
# What Debian's packages have and the official image has not.
_NOT_IN_SLIM = (
    "usr/lib/python3.11/EXTERNALLY-MANAGED",
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
)
_ISOLATION = ("--isolation", "chroot", "--network", "host")


def ensure_base() -> Path:
    """The files of the base image as a tar file under `.cache/`; made when it is missing."""
    base = _CACHE / "images" / f"{_VERSION}.tar"
    base.parent.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure_tools("buildah", "debootstrap")
        if not base.exists():
            with _folder() as folder:
                _make_base(folder)
                shutil.copyfile(folder / "base.tar", base.with_suffix(".part"))
            base.with_suffix(".part").rename(base)
    return base


def ensure_tools(*tools: str) -> list[str]:
    """Where these programs are; with apt, from Debian's packages of their names, where missing."""
    missing = [name for name in tools if shutil.which(name, path=_path()) is None]
    if missing:
        apt = [*_SUDO, "apt-get", "-qq"]
        _run([*apt, "update"])
        _run([*apt, "install", "-y", "--no-install-recommends", *missing])
    return [shutil.which(name, path=_path()) or name for name in tools]


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is gone afterwards, with all that was mounted in it; in memory if it fits."""
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _NEEDED_BYTES
    parent = _MEMORY if in_memory else _CACHE / "images"
    for left in parent.glob("scoring-images-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            _delete(left)
    folder = Path(tempfile.mkdtemp(prefix=f"scoring-images-{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        _delete(folder)


def _make_base(folder: Path) -> None:
    root = folder / "files"
    chosen = ["--variant=minbase", f"--include={_PACKAGES}", "bookworm"]
    _run([*_SUDO, "env", f"PATH={_path()}", "debootstrap", *chosen, str(root), _mirror()])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, "--no-deps", "--no-compile", "--target", str(folder / "pip"), _PIP])
    # Owned by root, whoever runs this.
    python = root / "usr" / "local" / "lib" / "python3.11" / "dist-packages"
    _run([*_SUDO, "cp", "-r", *map(str, sorted((folder / "pip").glob("pip*"))), str(python)])
    _run([*_SUDO, "rm", "-rf", *(str(root / name) for name in _NOT_IN_SLIM)])
    _run([*_SUDO, "mkdir", "-p", str(root / "var/cache/apt/archives/partial")])
    _run([*_SUDO, "ln", "-s", "/usr/bin/python3", str(root / "usr/local/bin/python")])
    _run([*_SUDO, "tar", "-C", str(root), "--exclude=./proc/*", "--exclude=./sys/*", "-cf",
          str(folder / "base.tar"), "."])  # fmt: skip


def _mirror() -> str:
    """The mirror of Debian that this machine's apt uses."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text(errors="replace") for path in sources if path.is_file())
    found = re.search(r"^(?:deb|URIs:).*?(https?://\S+/debian)/?(?=\s|$)", text, re.MULTILINE)
    return found[1] if found else _MIRROR


def _buildah(folder: Path) -> list[str]:
    """buildah with a storage of its own: overlay where the file system can, else vfs."""
    roots = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
    command = [*_SUDO, shutil.which("buildah") or "buildah", *roots, "--storage-driver"]
    works = subprocess.run([*command, "overlay", "info"], capture_output=True).returncode == 0
    if not works:
        _delete(folder / "root")
    return [*command, "overlay" if works else "vfs"]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"[-4000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout


def _delete(folder: Path) -> None:
    """The folder and what is mounted in it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(folder):
            subprocess.run([*_SUDO, "umount", "--lazy", mount], check=True)
    _run([*_SUDO, "rm", "-rf", str(folder)])


class ImageStore:
    """`with ImageStore() as images:` builds and runs images; all of them are gone at the end."""

    def __enter__(self) -> Self:
        base = ensure_base()
        with ExitStack() as stack:
            self.command = _buildah(stack.enter_context(_folder()))
            # Builds compute for half a minute: the tests beside them go first.
            self.builder = Builder("buildah", ("nice", "-n", "10", *self.command))
            stack.callback(subprocess.run, [*self.command, "rm", "--all"], capture_output=True)
            [container] = self.run("from", "scratch").split()
            self.run("add", "--quiet", container, str(base), "/")
            self.run("config", "--env", "LANG=C.UTF-8", "--cmd", "python3", container)
            self.run("commit", "--quiet", "--rm", container, BASE)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def build_args(self) -> dict[str, str | None]:
        """The base image, and what pip needs on this machine."""
        inside = {"PIP_CERT": _CERTIFICATES_INSIDE} if _CERTIFICATES else {}
        return {"BASE_IMAGE": BASE, **inside, **dict.fromkeys(_INDEXES)}

    @property
    def options(self) -> list[str]:
        """How `build` runs here, where containers have neither a network nor a daemon."""
        options = [*_ISOLATION, "--pull-never"]
        if _CERTIFICATES:
            options += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES_INSIDE}:ro"]
        return options

    def inspect(self, image: str) -> dict[str, Any]:
        """All that buildah knows of an image."""
        found: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", image))
        return found

    def config(self, image: str) -> dict[str, Any]:
        """The image's configuration as docker reads it."""
        config: dict[str, Any] = self.inspect(image)["Docker"]["config"]
        return config

    def run(self, *arguments: str) -> str:
        """What a command of buildah prints."""
        return _run([*self.command, *arguments])

    @contextmanager
    def container(
        self, image: str, *, volumes: Mapping[Path, str] | None = None, **environ: str
    ) -> Iterator[Container]:
        """A container of an image, with folders of this machine in it and more variables."""
        name = self.run("from", "--pull-never", image).strip()
        options = [
            option for key, value in environ.items() for option in ("--env", f"{key}={value}")
        ]
        for outside, inside in (volumes or {}).items():
            options += ["--volume", f"{outside}:{inside}"]
        try:
            yield Container([*self.command, "run", *_ISOLATION, *options, name, "--"])
        finally:
            self.run("rm", name)


class Container:
    """A container; processes in it share the network and the process ids of this machine."""

    def __init__(self, prefix: Sequence[str]) -> None:
        self._prefix = list(prefix)

    def command(self, *command: str) -> list[str]:
        """What runs a command in the container."""
        return [*self._prefix, *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the image's user."""
        return subprocess.run(
            self.command(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )


def signal_inside(process: subprocess.Popen[Any], number: int) -> None:
    """Send a signal to the program in a container that `process` runs."""
    subprocess.run([*_SUDO, "kill", f"-{number}", str(_innermost(process.pid))], check=True)


def end(process: subprocess.Popen[Any], number: int = signal.SIGTERM, timeout: float = 20) -> int:
    """End the program in a container as its orchestrator does; the result is its exit code."""
    if process.poll() is None:
        signal_inside(process, number)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            signal_inside(process, signal.SIGKILL)
            process.wait(timeout)
    return process.returncode


def _innermost(pid: int) -> int:
    """buildah starts itself twice before the program, which is its only grandchild."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = _program_below(pid)
        if found is not None:
            return found
        time.sleep(0.02)
    raise RuntimeError(f"process {pid} has started no program")


def _program_below(pid: int) -> int | None:
    for child in _children(pid):
        name = Path(f"/proc/{child}/comm").read_text().strip()
        found = (
            _program_below(child)
            if name.startswith(("sudo", "buildah", "memfd:", "exe"))
            else child
        )
        if found is not None:
            return found
    return None


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


if __name__ == "__main__":
    ensure_base()
