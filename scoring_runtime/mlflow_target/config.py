"""The ``config`` of MLflow deployments to this target: its keys, checked, and the help on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PackagingError
from ..packaging.specification import FUNCTIONS, STANDALONE, TARGETS, PackagedModel, Specification
from ..settings.kinds import TRIGGERS

# By their names here and in the documentation of the old packages.
_TRIGGERS = {**dict(zip(TRIGGERS, TRIGGERS, strict=True)), "service_bus_queue": "service_bus"}
_SERVICE = {
    "port": "to listen on; a free one without it",
    "folder": "where the deployments are noted, in place of the target's",
    "wait": "false: do not wait until the model is loaded (true)",
}
_PACKAGE = {
    "output": "folder of the build context (NAME-package)",
    "target": "functions for Azure Functions, or standalone for containers (functions)",
    "trigger": "of functions: http, blob, service_bus_queue, separated by commas (http)",
    "auth_level": "of the trigger http: anonymous, function or admin",
    "input_path": "of the trigger blob: container/name with placeholders; so is output_path",
    "output_path": "",
    "input_queue": "of the trigger service_bus_queue: queue; so is output_queue",
    "output_queue": "",
    "resolve": "false: do not ask pip whether the packages can be installed (true)",
    "build": "true: build the image with docker, podman or buildah (false)",
    "builder": "docker, podman or buildah; the first there is without it",
    "tag": "the image's name",
}


def _lines(about: Mapping[str, str]) -> str:
    return "\n".join(f"  {key:<13} {text}" for key, text in about.items() if text)


HELP = f"""\
The target scoring-runtime serves an MLflow model on this machine, or packages it.

Target URI: scoring-runtime, which keeps its deployments in .scoring-runtime of your home folder, or
scoring-runtime:/FOLDER. No docker is needed: a deployment is a process that listens on the loopback
interface and goes on until it is deleted; the model's packages have to be installed in this Python.
Names have 3 to 32 lowercase letters, digits or dashes. The flavour is python_function.

  mlflow deployments run-local -t scoring-runtime -m MODEL-URI --name NAME -C port=5001
  mlflow deployments create -t scoring-runtime -m MODEL-URI --name NAME
  mlflow deployments update | get | predict | delete -t scoring-runtime --name NAME ...
  mlflow deployments list -t scoring-runtime

run-local and create are the same here, so that get and delete find both. mlflow does not tell
run-local the target URI: name the FOLDER of scoring-runtime:/FOLDER with -C folder=/FOLDER there.

predict -I FILE takes JSON as pandas.read_json does: rows [{{"a": 1, "b": 2}}], or columns
{{"a": [1], "b": [2]}}. From Python, predict(NAME, inputs) takes a DataFrame, an array, a list, a
dict of columns, or a payload with dataframe_split, dataframe_records, instances or inputs, as a
dict or as its JSON text.

config (-C key=value) of create, run-local, update and delete:
{_lines(_SERVICE)}

config of create that makes a package in place of a deployment, if one of them is given:
{_lines(_PACKAGE)}

  mlflow deployments create -t scoring-runtime -m MODEL-URI --name NAME -C output=DIR -C build=true

A package is a folder to build an image from, not a deployment: list does not show it.
"""


@dataclass(frozen=True)
class Config:
    """The config by key, checked; ``given`` are its texts.

    ``port`` is where to listen, and None a free one; ``folder`` where the deployments are noted,
    None for that of the target; ``triggers`` go by their names in ``SCORING_TRIGGERS``.
    """

    given: Mapping[str, str]
    port: int | None
    folder: Path | None
    wait: bool
    build: bool
    resolve: bool
    target: str
    triggers: tuple[str, ...]

    @classmethod
    def of(cls, config: Mapping[str, object] | None) -> Config:
        """Check the keys and the values; ``-`` in a key is as ``_``.

        Raises:
            PackagingError: one is not allowed; the message says which are.
        """
        texts = {key.replace("-", "_"): _text(value) for key, value in (config or {}).items()}
        known = [*_SERVICE, *_PACKAGE]
        for key in texts:
            if key not in known:
                raise PackagingError(
                    f"There is no config {key!r} for this target. Allowed: {', '.join(known)}."
                )
        target = texts.get("target", FUNCTIONS)
        made = cls(
            given=texts,
            port=_port(texts.get("port")),
            folder=Path(texts["folder"]).expanduser() if texts.get("folder") else None,
            wait=_switch("wait", texts.get("wait", "true")),
            build=_switch("build", texts.get("build", "false")),
            resolve=_switch("resolve", texts.get("resolve", "true")),
            target=target,
            triggers=_triggers(texts.get("trigger"), target),
        )
        both = [key for key in ("port", "wait") if key in texts]
        if made.of_package and both:
            raise PackagingError(
                f"config {' and '.join(both)} is for a deployment on this machine, and "
                f"{', '.join(made.of_package)} for a package: give one or the other."
            )
        return made

    @property
    def of_package(self) -> list[str]:
        """The keys of a package; one is wanted if there are any."""
        return [key for key in self.given if key in _PACKAGE]

    def refuse_package(self, command: str) -> None:
        """Raise PackagingError if there is a key of packages."""
        if self.of_package:
            raise PackagingError(
                f"config {', '.join(self.of_package)} is for create, not for {command}. Allowed "
                f"here: {', '.join(_SERVICE)}."
            )

    def specification(self, model: PackagedModel) -> Specification:
        """The package of one model."""
        keys = ("auth_level", "input_path", "output_path", "input_queue", "output_queue")
        options: dict[str, Any] = {key: self.given[key] for key in keys if key in self.given}
        return Specification(self.target, self.triggers, (model,), **options)


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise PackagingError(f"config port is {text!r}. Allowed: 1 to 65535.")
    return int(text)


def _switch(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise PackagingError(f"config {key} is {text.lower()!r}. Allowed: true or false.")
    return text.lower() == "true"


def _triggers(text: str | None, target: str) -> tuple[str, ...]:
    if target not in TARGETS:
        raise PackagingError(f"config target is {target!r}. Allowed: {', '.join(TARGETS)}.")
    if text is None:
        text = "" if target == STANDALONE else "http"
    names = [each.strip() for each in text.split(",")]
    wrong = [each for each in names if each and each not in _TRIGGERS]
    if wrong:
        allowed = ", ".join(_TRIGGERS)
        raise PackagingError(f"config trigger is {', '.join(wrong)!r}. Allowed: {allowed}.")
    return tuple(dict.fromkeys(_TRIGGERS[each] for each in names if each))
