"""The settings of a package: those in the image, and the names of those that are not."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..connections.named import blob_name, service_bus_name
from ..errors import ConfigurationError, PackagingError
from ..settings.secrets import is_secret, masked
from ..settings.settings import Settings, nearest_setting, setting_names
from ..triggers.blob_paths import blob_paths, refuse_shared_documents
from .source import entry_script_name
from .specification import (
    FUNCTIONS,
    MODELS,
    ROOTS,
    SOURCE,
    STANDALONE,
    VARIABLE,
    RequiredSetting,
    Specification,
)

# The option of the command line → its setting, and the trigger that it is for.
_OPTIONS = {
    "--auth-level": ("SCORING_AUTH_LEVEL", "http"),
    "--input-path": ("BLOB_INPUT_PATH", "blob"),
    "--output-path": ("BLOB_OUTPUT_PATH", "blob"),
    "--input-queue": ("SERVICEBUS_INPUT_QUEUE", "service_bus"),
    "--output-queue": ("SERVICEBUS_OUTPUT_QUEUE", "service_bus"),
}
_PATHS = ("AML_APP_ROOT", "AZUREML_ENTRY_SCRIPT", "AZUREML_MODEL_DIR")
_ABOUT_STORAGE = "connection string of the storage account with the input and output containers"
_ABOUT_BUS = "connection string of the Service Bus namespace with the input and output queues"
_NO_TEXT = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
# Where the runtime would have read it: here it was an option, or a line of a file.
_PLACE = re.compile(r" \(from the environment\)| \(environment variable: \w+\)$")
_OURS = ("SCORING_", "BLOB_", "SERVICEBUS_", "CACHE_")
# https://learn.microsoft.com/azure/azure-functions/functions-reference#configure-an-identity-based-connection
_IDENTITY = ("__accountName", "__blobServiceUri", "__fullyQualifiedNamespace", "__serviceUri")
_ABOUT_HOST = "connection string of the storage account that the Functions host keeps its own in"


def image_settings(specification: Specification, root: str) -> dict[str, str]:
    """The settings in the image, with the context at ``root``; checked as the runtime will.

    Raises:
        PackagingError: a setting has a wrong value; the message names it and what is allowed.
    """
    said = {**_variables(specification), **_options(specification)}
    _check_texts(said)
    _check(said, specification.target)
    return {**_paths(specification, root), **said}


def required_settings(specification: Specification) -> tuple[RequiredSetting, ...]:
    """The settings that have to be set where the image runs, by name."""
    settings, wanted = settings_of(specification), dict[str, str]()
    if specification.target == FUNCTIONS:
        wanted["AzureWebJobsStorage"] = _ABOUT_HOST
    if "blob" in specification.triggers:
        wanted.setdefault(blob_name(settings), _ABOUT_STORAGE)
    if "service_bus" in specification.triggers:
        wanted.setdefault(service_bus_name(settings), _ABOUT_BUS)
    wanted = {name: each for name, each in wanted.items() if not _by_identity(specification, name)}
    for name in wanted:
        _check_name(name)
    for name in _secrets(specification):
        wanted.setdefault(name, "was given as a variable; a secret is not packaged")
    return tuple(RequiredSetting(name, about) for name, about in wanted.items())


def unknown_settings(specification: Specification) -> list[str]:
    """A warning for each variable that looks like a setting of the runtime and is none."""
    known = setting_names()
    given = [name for name in specification.environment.variables if name.startswith(_OURS)]
    return [
        f"There is no setting {name}, so it is only a variable of the script."
        + (f" Did you mean {near}?" if (near := nearest_setting(name)) else "")
        for name in sorted(given)
        if name not in known and not name.endswith(_IDENTITY)
    ]


def settings_of(specification: Specification) -> Settings:
    """The settings as the runtime in the image reads them."""
    return Settings.from_environ(
        image_settings(specification, ROOTS[specification.target]),
        defaults={"AML_APP_ROOT": "/nonexistent"},
    )


def _by_identity(specification: Specification, name: str) -> bool:
    """Whether a variable says where the service is, so that an identity signs in there."""
    return any(
        each.startswith(f"{name}__") and each.endswith(_IDENTITY)
        for each in specification.environment.variables
    )


def _options(specification: Specification) -> dict[str, str]:
    found = {"SCORING_TRIGGERS": ",".join(specification.triggers)}
    for option, (name, trigger) in _OPTIONS.items():
        value = getattr(specification, option[2:].replace("-", "_"))
        # An empty queue of replies is none, not the default one.
        if value or (value == "" and option == "--output-queue"):
            found[name] = value
            if specification.triggers and trigger not in specification.triggers:
                asked = "service_bus_queue" if trigger == "service_bus" else trigger
                raise PackagingError(
                    f"{option} is for the trigger {asked}, which is not packaged: add "
                    f"--trigger {asked} or leave {option} out."
                )
    return {name: value for name, value in found.items() if value or name != "SCORING_TRIGGERS"}


def _variables(specification: Specification) -> dict[str, str]:
    variables = specification.environment.variables
    for name in variables:
        _check_name(name)
    if variables.get("SCORING_TRIGGERS", "") not in ("", ",".join(specification.triggers)):
        raise PackagingError(
            "The environment's variables set SCORING_TRIGGERS, which the packager sets to the "
            "triggers that are packaged: leave it out and name each with --trigger."
        )
    for name in _PATHS:
        if name in variables:
            raise PackagingError(
                f"The environment's variables set {name}, which the packager sets to where the "
                "files lie in the image: leave it out."
            )
    secret = _secrets(specification)
    return {name: value for name, value in sorted(variables.items()) if name not in secret}


def _secrets(specification: Specification) -> list[str]:
    variables = specification.environment.variables
    known = {*setting_names(secret=True), "AzureWebJobsStorage"}
    known |= {variables.get(name, "") for name in ("BLOB_CONNECTION", "SERVICEBUS_CONNECTION")}
    return sorted(
        name for name, value in variables.items() if name in known or is_secret(name, value)
    )


def _paths(specification: Specification, root: str) -> dict[str, str]:
    inside = f"{root}/" if root else ""
    paths = {"AML_APP_ROOT": f"{inside}{SOURCE}"}
    if specification.entry_script is None:
        paths["AML_APP_ROOT"] = root or "."
    else:
        paths["AZUREML_ENTRY_SCRIPT"] = entry_script_name(specification)
    models = specification.models
    if len(models) == 1:
        paths["AZUREML_MODEL_DIR"] = f"{inside}{MODELS}/{models[0].name}/{models[0].version}"
    elif models:
        paths["AZUREML_MODEL_DIR"] = f"{inside}{MODELS}"
    return paths


def _check_name(name: str) -> None:
    """A shell can set no others, and the commands that are printed name them."""
    if not VARIABLE.fullmatch(name):
        raise PackagingError(
            f"{masked(name)!r} cannot be the name of a setting: allowed are letters (a-z, A-Z), "
            "digits and '_', the first no digit."
        )


def _check_texts(said: Mapping[str, str]) -> None:
    for name, value in said.items():
        if _NO_TEXT.search(value):
            raise PackagingError(
                f"The value of {name} has a line break, another control character or bytes that "
                "are not UTF-8, which an image cannot hold: expected is one line of text."
            )


def _check(said: Mapping[str, str], target: str) -> None:
    try:
        settings = Settings.from_environ(said, defaults={"AML_APP_ROOT": "/nonexistent"})
        paths = blob_paths(settings)
        if target == STANDALONE:
            refuse_shared_documents(paths)
    except ConfigurationError as error:
        raise PackagingError(_PLACE.sub("", str(error))) from error
    asked, answered = settings.servicebus_input_queue, settings.servicebus_output_queue
    if asked.lower() == answered.lower():
        raise PackagingError(
            f"The queue {asked} is both the input and the output: replies would be scored again "
            "and again. Name another --output-queue, or an empty one for replies to reply_to only."
        )
