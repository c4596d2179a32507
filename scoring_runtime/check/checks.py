"""Everything that is looked at, for a script or a model, a package folder, an image."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from ..errors import ConfigurationError, PackagingError
from ..packaging.context import Document
from ..packaging.image import find_builder
from ..packaging.specification import FUNCTIONS, SOURCE
from ..scoring.diagnosis import written_otherwise
from ..settings.settings import Settings
from ..triggers.blob_paths import blob_paths
from . import packages, process, rules
from .report import Finding, Report, read

INSIDE = 'cd "${AzureWebJobsScriptRoot:-.}" && exec python -m scoring_runtime check --json "$@"'
"""What a shell of an image does: on Functions the runtime lies in the app's folder alone."""
_IMAGE_SECONDS = 60.0
_SHOWN_LINES = 12


def of_settings(
    settings: Settings, *, target: str = "", samples: Sequence[str] = (), seconds: float = 300
) -> Report:
    """Check what these settings serve, in a process with this one's environment.

    ``target`` is ``functions`` or ``standalone``, and nothing if it is not known. ``samples`` are
    files that are scored beside those that are found, ``seconds`` is how long it may take.
    """
    report = Report(settings.entry_script or settings.model_dir or settings.app_root)
    app = Path(settings.app_root)
    hosts = [app / "host.json", app.parent / "host.json"]
    tried = partial(process.tried, report, settings, samples, seconds)
    _checked(report, settings, target, hosts, tried)
    is_loaded = "start_seconds" in report.facts
    for where, module, package in packages.not_installed(settings, is_loaded):
        if module != report.facts.get("missing_module"):
            text = f"It imports {module}, which is not installed here. pip install {package}"
            report.add("package", where, text)
    return report


def of_package(
    folder: Path,
    *,
    more: Mapping[str, str] = MappingProxyType({}),
    samples: Sequence[str] = (),
    seconds: float = 300,
) -> Report:
    """Check a package where it lies, with what is installed here; ``more`` are settings over its.

    Raises:
        PackagingError: there is no package.
    """
    document = packages.document_of(folder)
    with tempfile.TemporaryDirectory(prefix="scoring-package-") as name:
        # A copy, for what a script writes beside itself.
        source = Path(os.path.realpath(name), SOURCE)
        if (folder / SOURCE).is_dir():
            shutil.copytree(folder / SOURCE, source, symlinks=True)
        else:
            source.mkdir()
        report = _of_package(folder, document, source, more, samples, seconds)
        return read(report.text().replace(str(source), str(folder.resolve() / SOURCE)))


def _of_package(
    folder: Path,
    document: Document,
    source: Path,
    more: Mapping[str, str],
    samples: Sequence[str],
    seconds: float,
) -> Report:
    report = Report(str(folder))
    said = packages.variables(folder, document, source)
    try:
        settings = Settings.from_environ(said, command_line=more)
    except ConfigurationError as error:
        report.findings.append(wrong_setting(error))
        return report
    tried = partial(process.tried, report, settings, samples, seconds, said, source)
    _checked(report, settings, document.target, [folder / "host.json"], tried)
    lacking = packages.lacking(folder, document)
    for sentence in lacking:
        report.add("package", sentence.partition(" imports ")[0], sentence)
    if "start_seconds" not in report.facts and not lacking:
        _unchecked(report, folder, document)
    return report


def _unchecked(report: Report, folder: Path, document: Document) -> None:
    """If it may well load in the image, which has what is not here, then it is only not checked."""
    why = packages.other_here(folder)
    module, variable = (report.facts.get(f"missing_{each}", "") for each in ("module", "variable"))
    if module:
        why = why or f"{module} is not installed here"
    elif variable in document.required:
        why = f"{variable} is set only where the image runs"
    if why:
        report.unchecked = why
        report.findings = [each for each in report.findings if each.kind not in ("load", "package")]


def of_image(name: str, builder: str, arguments: Sequence[str], seconds: float) -> Report:
    """Have ``check`` run in a container of an image, which ends with it.

    Raises:
        PackagingError: there is no builder that runs images, or the image cannot check itself.
    """
    found = find_builder(builder)
    if found.name == "buildah":
        raise PackagingError("buildah builds images and does not run them: use docker or podman.")
    command = [*found.command, "run", "--rm", "--entrypoint", "sh", name, "-c", INSIDE, "sh"]
    try:
        done = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + _IMAGE_SECONDS,
        )
        report = read(done.stdout)
    except subprocess.TimeoutExpired:
        raise PackagingError(
            f"{name} has not been checked after {seconds + _IMAGE_SECONDS:g} s."
        ) from None
    except ValueError:
        lines = (done.stderr or done.stdout).strip().splitlines()[-_SHOWN_LINES:]
        shown = "".join(f"\n  {line}" for line in lines)
        raise PackagingError(
            f"{name} does not check itself (exit code {done.returncode}); expected is an image of "
            f"this version of scoring-runtime:{shown}"
        ) from None
    report.target = name
    return report


def wrong_setting(error: ConfigurationError) -> Finding:
    """The finding of a setting whose value is not allowed."""
    text = str(error)
    return Finding("setting", text.partition(" ")[0], text)


def _checked(
    report: Report,
    settings: Settings,
    target: str,
    hosts: Sequence[Path],
    tried: Callable[[], None],
) -> None:
    path, host, wrong = rules.host_json(hosts)
    if wrong:
        report.add("setting", str(path), wrong)
    try:
        blob_paths(settings)
    except ConfigurationError as error:
        report.findings.append(wrong_setting(error))
        return
    tried()
    report.findings += _other_versions(settings)
    where = target or (FUNCTIONS if path is not None else "")
    rules.apply(rules.Seen(settings, where, host, report.facts), report)
    for warning in settings.warnings:
        report.add("setting", warning.partition(": ")[2].partition(" ")[0].rstrip("."), warning)


def _other_versions(settings: Settings) -> list[Finding]:
    """Pickles of other versions of scikit-learn than the one that is installed here."""
    if not settings.model_dir or not os.path.isdir(settings.model_dir):
        return []
    lines = written_otherwise(Path(settings.model_dir))
    return [Finding("package", "scikit-learn", line) for line in lines]
