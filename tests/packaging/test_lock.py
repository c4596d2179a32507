"""Lock files of a context, and those of the repository: made by uv from the real index."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging import lock
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.environment.names import name_of
from scoring_runtime.packaging.environment.pip import from_packages
from scoring_runtime.packaging.lock import lock_name, locked
from scoring_runtime.packaging.requirements import runtime_requirements
from scoring_runtime.packaging.specification import STANDALONE, TARGETS, Specification

ROOT = Path(__file__).parents[2]
WHEEL = "six==1.16.0\n"


def entries(text: str) -> dict[str, str]:
    """Each line without its hashes, by its package."""
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    lines = [each for each in joined if each.strip() and not each.startswith(("#", " "))]
    return {name_of(each): each.partition(" --hash=")[0].strip() for each in lines}


def test_pip_installs_what_is_locked_and_refuses_another_file(tmp_path: Path) -> None:
    text = locked(WHEEL, "3.11").decode()
    assert entries(text) == {"six": "six==1.16.0"}
    asked = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    for content, code in ((text, 0), (re.sub("sha256:....", "sha256:0000", text), 1)):
        (tmp_path / "six.lock").write_text(content)
        command = [*asked, "--require-hashes", "-r", "six.lock"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_a_version_stays_until_it_no_longer_fits() -> None:
    old = locked(WHEEL, "3.11")
    assert locked("six\n", "3.11", previous=old) == old
    assert entries(locked("six>=1.17\n", "3.11", previous=old).decode())["six"] != "six==1.16.0"


@pytest.mark.parametrize(
    ("requirements", "said"),
    [
        ("scoring-runtime-is-not-there>=3\n", "scoring-runtime-is-not-there was not found"),
        ("six==1.16\nsix==1.15\n", "six==1.16"),
        ("-r nowhere.txt\n", "nowhere.txt"),
    ],
)
def test_what_uv_refuses_is_said(requirements: str, said: str) -> None:
    with pytest.raises(
        PackagingError, match=r"^The packages cannot be locked: uv says: "
    ) as raised:
        locked(requirements, "3.11")
    assert said in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_a_checkout_has_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(folder: Path, name: str, *_: object) -> None:
        address = "net @ git+https://example.org/net@0123456789abcdef0123456789abcdef01234567\n"
        (folder / name).write_text(f"{address}six==1.16.0 \\\n    --hash=sha256:0\n")

    monkeypatch.setattr(lock, "_compile", compiled)
    with pytest.raises(PackagingError, match=r"net @ git\+https://example.org/net@0.* no hash"):
        locked("net @ git+https://example.org/net", "3.11")


def test_without_uv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PackagingError, match=r"pip install 'scoring-runtime\[lock\]'"):
        locked(WHEEL, "3.11")


def test_a_context_has_the_lock_of_each_target_and_keeps_it(tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text("def init(): pass\ndef run(data): return data\n")
    wanted = Specification(
        target=STANDALONE,
        entry_script=script,
        lock=True,
        environment=from_packages(["six==1.16.0"]),
    )
    output = tmp_path / "package"
    make(wanted, output, resolve=False)
    texts = {target: (output / lock_name(target)).read_text() for target in TARGETS}
    assert "uvicorn" in entries(texts[STANDALONE])
    assert "azure-functions" in entries(texts["functions"])
    assert entries(texts["functions"])["six"] == "six==1.16.0"
    dockerfile = (output / "Dockerfile").read_text()
    for target in TARGETS:
        assert f"COPY {lock_name(target)} ./\n" in dockerfile
        assert f"--require-hashes -r {lock_name(target)};" in dockerfile
        assert f"!{lock_name(target)}\n" in (output / ".dockerignore").read_text()
    assert make(wanted, output, resolve=False).unchanged
    other = replace(wanted, environment=from_packages(["six==1.17.0"]))
    assert not make(other, output, resolve=False).unchanged
    again = entries((output / lock_name(STANDALONE)).read_text())
    assert again == {**entries(texts[STANDALONE]), "six": "six==1.17.0"}
    assert not make(replace(wanted, lock=False), output, resolve=False).unchanged
    assert list(output.glob("*.lock")) == []


@pytest.mark.parametrize("target", TARGETS)
def test_the_repositorys_lock_files_are_of_its_requirements(target: str) -> None:
    """``make lock`` writes them anew: every requirement is there, and nothing changes by itself."""
    text = (ROOT / lock_name(target)).read_text()
    assert "://" not in text
    more = runtime_requirements(target, ("http", "blob", "service_bus"), script=True)
    wanted = (ROOT / "requirements.txt").read_text() + "\n".join(more)
    assert {name_of(each) for each in wanted.splitlines() if each and each[0] != "#"} <= set(
        entries(text)
    )
    assert entries(locked(wanted, "3.11", previous=text.encode()).decode()) == entries(text)
