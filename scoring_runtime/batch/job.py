"""What is asked for on the command line, as a job that every worker gets the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..connections.named import blob_name
from ..errors import ConfigurationError
from ..settings.settings import Settings
from ..triggers.blob_paths import BlobPaths, EveryFile, Template, blob_paths
from . import mini_batch
from .plan import BYTES, PARQUET, ROWS, TABLES, Part, files_below, mini_batches, rows_of

Begin = Callable[[Settings], object]
"""What a process does first, such as to begin its log."""


class Asked(NamedTuple):
    """The options of the command."""

    input: str
    output: str
    rows: int = 0
    header: str = ""
    rows_as: str = ""
    model: str = ""
    method: str = ""
    follow: bool = False
    mini_batch_size: str = ""
    output_action: str = ""
    output_file_name: str = ""
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class Job:
    """What is scored, and how; it can be sent to another process.

    ``parts`` are joined to ``target``, which is of the content type ``kind``; without parts whole
    files or blobs are scored. ``begin`` is called first in each process.
    """

    settings: Settings
    where: str
    begin: Begin
    parts: tuple[Part, ...] | None = None
    target: Path = Path()
    kind: str = ""
    directions: Mapping[str, str] = field(default_factory=dict)
    rows_as: str = ""
    container: str = ""
    output: str = ""
    follow: bool = False
    mini_batch: Mapping[str, Any] | None = None
    arguments: Sequence[str] = ()

    def paths(self, has_script: bool) -> BlobPaths:
        """Which files or blobs are inputs."""
        if not self.container:
            return blob_paths(self.settings, has_script=has_script)
        return BlobPaths(
            EveryFile(has_script, self.container),
            Template("BLOB_OUTPUT_PATH", f"{self.output}/{{blobname}}_out.json"),
            Template("BLOB_ERROR_PATH", f"{self.output}/{{blobname}}_error.json"),
        )


def job_of(settings: Settings, asked: Asked, begin: Begin) -> Job:
    """The job, its input looked at.

    Raises:
        ConfigurationError: an option does not fit; the message names it and what is allowed. Or
            the input cannot be read.
    """
    try:
        return _job_of(settings, asked, begin)
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}.") from None


def _job_of(settings: Settings, asked: Asked, begin: Begin) -> Job:
    # What a process cannot be sent is a mapping that cannot be changed.
    mappings = {"environ": dict(settings.environ), "sources": dict(settings.sources)}
    settings = replace(settings, triggers=("blob",), warnings=(), **mappings)  # type: ignore[arg-type]
    source = Path(asked.input)
    takes = mini_batch.takes_mini_batches(settings.script_path)
    if not source.exists():
        job = _of_container(settings, asked, begin)
    elif takes or asked.mini_batch_size:
        job = _of_mini_batches(settings, asked, begin, source)
    elif source.is_dir():
        own = {"blob_input_folder": asked.input, "blob_output_folder": asked.output}
        settings = replace(settings, **own)  # type: ignore[arg-type]
        job = Job(settings, f"{asked.input} to {asked.output}", begin, follow=asked.follow)
    else:
        job = _of_table(settings, asked, begin, source)
    if asked.follow and job.parts is not None:
        raise ConfigurationError("--follow is for a folder or container, not for a file in parts.")
    return job


def _of_table(settings: Settings, asked: Asked, begin: Begin, source: Path) -> Job:
    target = Path(asked.output)
    kind = TABLES.get(target.suffix.lower())
    if kind in (None, PARQUET) or target.is_dir() or target.resolve() == source.resolve():
        raise ConfigurationError(
            f"--output {asked.output} is not allowed. Allowed with --input {asked.input}: another "
            "file, whose name ends in .csv, .jsonl or .ndjson."
        )
    header = {"present": True, "absent": False}.get(asked.header)
    said = {"accept": kind or "", "model": asked.model, "method": asked.method}
    # What was begun with other options has parts of other names.
    options = (asked.model, asked.method, asked.rows_as)
    name = "\0".join((source.name, *options)) if any(options) else ""
    parts = rows_of(source, asked.rows or ROWS, BYTES, header, name)
    return Job(
        replace(settings, blob_max_concurrent=2),
        f"{asked.input} to {asked.output}",
        begin,
        tuple(parts),
        target,
        kind,
        {name: value for name, value in said.items() if value},
        asked.rows_as,
    )


def _of_mini_batches(settings: Settings, asked: Asked, begin: Begin, source: Path) -> Job:
    if Path(asked.output).resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(f"--output {asked.output} lies in --input: it would be read too.")
    files, size = mini_batch.size_of(asked.mini_batch_size or ("10" if source.is_dir() else "1mb"))
    header = {"present": True, "absent": False}.get(asked.header)
    if size or source.is_file():
        found = [source] if source.is_file() else _tables(source)
        parts = _numbered(
            part if part.group < 0 else part._replace(content_type=PARQUET)
            for each in found
            for part in rows_of(each, asked.rows or 2**31, size or BYTES, header, str(each))
        )
    else:
        parts = mini_batches(source, files)
    action = asked.output_action or "append_row"
    output = Path(asked.output)
    named = asked.output_file_name if action == "append_row" else ""
    config = {
        "mini_batch_size": asked.mini_batch_size or str(files or size),
        "output_action": action,
        "error_threshold": -1,
        "process_count_per_node": settings.worker_count,
        "run_invocation_timeout": settings.timeout_seconds,
        "run_max_try": settings.blob_max_attempts,
    }
    return Job(
        replace(settings, blob_max_concurrent=1),
        f"{asked.input} to {asked.output}",
        begin,
        tuple(parts),
        output / (named or mini_batch.OUTPUT[action]),
        mini_batch={"config": config, "input_dir": asked.input, "output_dir": str(output)},
        arguments=asked.arguments,
    )


def _numbered(parts: Any) -> list[Part]:
    """The parts of several tables with the numbers of their rows counted on."""
    found: list[Part] = []
    first = 1
    for part in parts:
        found.append(part._replace(first=first))
        first += part.rows
    return found


def _tables(folder: Path) -> list[Path]:
    found = [each for each in files_below(folder) if each.suffix.lower() in TABLES]
    if not found:
        raise ConfigurationError(f"{folder} has no tables. Allowed: {', '.join(TABLES)}.")
    return found


def _of_container(settings: Settings, asked: Asked, begin: Begin) -> Job:
    source, settings = _container_of(asked.input, settings)
    target, settings = _container_of(asked.output, settings)
    own: dict[str, Any] = {"blob_input_folder": ""}
    if "{" in source:
        own |= {"blob_input_path": source, "sources": {**settings.sources, "blob_input_path": "-"}}
        if "{" in target:
            own |= {"blob_output_path": target}
            own["sources"]["blob_output_path"] = "-"
    name = blob_name(settings)
    if not any(
        key.startswith((name.upper(), f"AZUREWEBJOBS{name}".upper())) for key in settings.environ
    ):
        raise ConfigurationError(
            f"--input {asked.input} is not there. Allowed: a folder, a file, the URL of a "
            f"container, or the name of one with its connection ({name})."
        )
    where, follow = f"{source} to {target}", asked.follow
    container = "" if "{" in source else source
    return Job(
        replace(settings, **own), where, begin, container=container, output=target, follow=follow
    )


def _container_of(place: str, settings: Settings) -> tuple[str, Settings]:
    """The name (or path with placeholders) of a container, and the settings with its account."""
    if "://" not in place:
        return place.strip("/"), settings
    url = urlsplit(place)
    if url.query:
        raise ConfigurationError(
            "The URL of a container has no query here: put a signature into the connection "
            f"string, the setting {blob_name(settings)}, where no list of processes shows it."
        )
    account = f"{url.scheme}://{url.netloc}"
    path = url.path.strip("/")
    if not url.netloc.partition(":")[0].endswith(("windows.net", "chinacloudapi.cn")):
        head, _, path = path.partition("/")  # an emulator, or a name of one's own
        account += f"/{head}"
    name = blob_name(settings).upper()
    if any(key in settings.environ for key in (name, f"{name}__BLOBSERVICEURI")):
        return path, settings
    environ = {**settings.environ, f"{name}__BLOBSERVICEURI": account}
    return path, replace(settings, environ=environ)
