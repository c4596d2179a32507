"""Blob path templates as Azure Functions has them: ``input/{folder}/{name}.{ext}``.

A placeholder stands for one character or more, slashes included; the first takes as much as it
can. ``{{`` and ``}}`` are braces of the name itself.
Source: https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-blob-trigger#blob-name-patterns
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from string import Formatter
from typing import NamedTuple

from ..connections.named import blob_name
from ..errors import ConfigurationError
from ..formats.by_content_type import hint, is_known
from ..settings.settings import Settings, environment_name
from .outcomes import content_type_of, is_read

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
LONGEST_NAME = 1024
_CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]|\$root|\$web")

# Trigger metadata of the Functions host, which a placeholder of that name would replace.
_TAKEN = frozenset({"properties", "uri", "metadata", "blobtrigger"})


class Template:
    """One path with placeholders.

    Args:
        setting: the setting that holds it, for messages.
        text: ``container/name``.

    Raises:
        ConfigurationError: it is not one; the message names the setting.
    """

    def __init__(self, setting: str, text: str) -> None:
        self.setting, self.text = setting, text
        self.container, _, name = text.removeprefix("/").partition("/")
        if not name:
            raise self.refused("it has no name after the container")
        if not _CONTAINER.fullmatch(self.container):
            raise self.refused(
                f"{self.container!r} cannot be a container: 3 to 63 lower-case letters, digits and "
                "single hyphens, without placeholders"
            )
        self._parts = self._parsed(name)
        self.names = [name for _, name in self._parts if name]
        if len(set(self.names)) != len(self.names) and setting == "BLOB_INPUT_PATH":
            raise self.refused("a placeholder stands in it twice")
        taken = [each for each in self.names if each.lower() in _TAKEN]
        if taken:
            raise self.refused(f"{{{taken[0]}}} is the host's own, name the placeholder otherwise")
        self.prefix = self._parts[0][0]
        """What every name begins with."""

    def match(self, name: str) -> dict[str, str] | None:
        """The placeholders' values if a blob of this name is meant."""
        found = self._pattern.fullmatch(name)
        return found.groupdict() if found else None

    def fill(self, values: dict[str, str]) -> str:
        """The name with these values in the placeholders."""
        return "".join(text + values.get(name, "") for text, name in self._parts)

    def example(self, value: str = "-{}-") -> str:
        """A name with this in each placeholder, ``{}`` in it being the placeholder's own."""
        return self.fill({name: value.format(name) for name in self.names})

    def compile(self) -> Template:
        """The template, ready to :meth:`match`."""
        self._pattern = re.compile(
            "".join(re.escape(text) + (name and f"(?P<{name}>.+)") for text, name in self._parts),
            re.DOTALL,
        )
        return self

    def refused(self, why: str) -> ConfigurationError:
        """The error that says why this template cannot be used."""
        return ConfigurationError(
            f"{self.setting} has the value {self.text!r}, which is not allowed: {why}. "
            "Allowed: container/name with placeholders, as in input/{blobname}.json. "
            f"(environment variable: {self.setting})"
        )

    def _parsed(self, name: str) -> list[tuple[str, str]]:
        """Texts, each with the name of the placeholder after it, or none."""
        try:
            found = list(Formatter().parse(name))
        except ValueError:
            raise self.refused("a brace is not closed or not opened") from None
        for _, field, kind, conversion in found:
            if field is not None and (kind or conversion or not _NAME.fullmatch(field)):
                more = f"!{conversion}" * bool(conversion) + f":{kind}" * bool(kind)
                raise self.refused(f"{{{field}{more}}} is not a placeholder name")
        return [(text, field or "") for text, field, *_ in found]


class EveryFile(Template):
    """The files of a watched folder, or container, of a type that is read: the pattern of none.

    ``{blobname}`` is the name without ``.json``, as in ``input/{blobname}.json``, else the whole
    name: ``a.json`` ends in ``a_out.json`` and ``a.csv`` in ``a.csv_out.json``.
    """

    def __init__(self, has_script: bool, container: str = "input") -> None:
        super().__init__("BLOB_INPUT_PATH", f"{container}/{{blobname}}")
        self._has_script = has_script

    def match(self, name: str) -> dict[str, str] | None:
        """The name, if its extension is known."""
        if not is_read(name, self._has_script):
            return None
        stem = name.removesuffix(".json")
        # What would be another file's name keeps its own.
        return {"blobname": name if is_read(stem, self._has_script) else stem}

    def why_not(self, name: str) -> str:
        """Why a file is none of them, and what takes it if anything does."""
        kind = content_type_of("", name)
        if not (self._has_script or is_known(kind.encode())):
            return f"a model without a script cannot read {kind}{hint(kind)}"
        taking = f"{self.setting}={self.container}/{{blobname}}{PurePosixPath(name).suffix}"
        return f"its type is read only when a setting says so, such as {taking}"


class Documents(NamedTuple):
    """The names of the two documents that an input can end in."""

    output: str
    error: str


class BlobPaths(NamedTuple):
    """The three templates of the blob trigger."""

    input: Template
    output: Template
    error: Template

    def directions(self, name: str) -> dict[str, str]:
        """``model`` if the input path has a placeholder of that name, as in
        ``input/{model}/{blobname}.json``."""
        values = (self.input.match(name) or {}) if "{model}" in self.input.text else {}
        return {"model": values["model"]} if values else {}

    def listens_to(self, settings: Settings) -> dict[str, str]:
        """What is watched and where documents go, for people."""
        if settings.blob_input_folder:
            where = {"folder": settings.blob_input_folder}
        else:
            where = {"connection": blob_name(settings)}
        texts = {name: template.text for name, template in self._asdict().items()}
        return {**texts, **where}

    def documents(self, name: str) -> Documents | None:
        """Where the result of an input, or its error, goes; None for a blob that is no input."""
        values = self.input.match(name)
        if values is None:
            return None
        return Documents(self.output.fill(values), self.error.fill(values))


def blob_paths(settings: Settings, *, has_script: bool = True) -> BlobPaths:
    """The paths of the blob trigger, checked against each other.

    In a watched folder without ``BLOB_INPUT_PATH`` every file that is read is an input.

    Raises:
        ConfigurationError: a template is wrong, an output would be an input again, or both
            documents would have one name.
    """
    if settings.blob_input_folder and "blob_input_path" not in settings.sources:
        source: Template = EveryFile(has_script)
    else:
        source = Template(environment_name("blob_input_path"), settings.blob_input_path).compile()
    if not source.names:
        raise source.refused("it has no placeholder, such as {blobname}")
    output = Template(environment_name("blob_output_path"), output_path(settings))
    error = Template(environment_name("blob_error_path"), error_path(settings))
    for each in (output, error):
        unknown = [f"{{{name}}}" for name in each.names if name not in source.names]
        if unknown:
            allowed = ", ".join(f"{{{name}}}" for name in source.names)
            raise each.refused(
                f"{', '.join(unknown)} is not in BLOB_INPUT_PATH, whose placeholders are {allowed}"
            )
    paths = BlobPaths(source, output, error)
    _refuse_loops(paths)
    if (output.container, output.example()) == (error.container, error.example()):
        raise error.refused("output and error documents would have the same name")
    return paths


def output_path(settings: Settings) -> str:
    """``BLOB_OUTPUT_PATH``; without it the input's path with ``_out`` in the container output."""
    if "blob_output_path" in settings.sources or "blob_input_path" not in settings.sources:
        return settings.blob_output_path
    name = settings.blob_input_path.removeprefix("/").partition("/")[2]
    folder, stem, _ = _split(name)
    return f"output/{folder}{stem}_out.json"


def error_path(settings: Settings) -> str:
    """``BLOB_ERROR_PATH``; without it the output path with ``_error`` for ``_out``."""
    if settings.blob_error_path:
        return settings.blob_error_path
    folder, stem, extension = _split(output_path(settings))
    return f"{folder}{stem.removesuffix('_out')}_error{extension or '.json'}"


def _split(path: str) -> tuple[str, str, str]:
    """Folder with its slash, stem, and extension with its dot, unless that is a placeholder."""
    folder, slash, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not dot or "}" in extension:
        return folder + slash, name, ""
    return folder + slash, stem, dot + extension


def refuse_shared_documents(paths: BlobPaths) -> None:
    """Refuse templates by which two inputs would have one document.

    The document is the receipt: two inputs that share one would be scored again for ever.

    Raises:
        ConfigurationError: a document's name leaves a placeholder of the input's out.
    """
    for each in (paths.output, paths.error):
        left_out = [f"{{{name}}}" for name in paths.input.names if name not in each.names]
        if left_out:
            raise each.refused(
                f"{', '.join(left_out)} of BLOB_INPUT_PATH is left out, so that two inputs could "
                "have the same document"
            )


def _refuse_loops(paths: BlobPaths) -> None:
    for each in (paths.output, paths.error):
        if each.container == paths.input.container and paths.input.match(each.example()):
            raise each.refused(
                f"what is written there would be an input again (BLOB_INPUT_PATH is "
                f"{paths.input.text})"
            )
