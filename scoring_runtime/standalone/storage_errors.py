"""Errors of the storage SDK as sentences for an operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    ServiceRequestError,
    ServiceResponseError,
)

from ..errors import InputTrouble, TriggerTrouble
from ..triggers.blob_paths import BlobPaths

# The account has too much to do, whichever blob it is asked for.
# https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes
_BUSY = ("ServerBusy", "OperationTimedOut")


@contextlib.contextmanager
def translated(connection_name: str, paths: BlobPaths, blob: str = "") -> Iterator[None]:
    """Raise the SDK's errors as TriggerTrouble; as InputTrouble if they are about one ``blob``."""
    try:
        yield
    except AzureError as error:
        if blob and code_of(error) not in _BUSY:
            raise InputTrouble(f"{blob} cannot be used: {code_of(error)}.") from error
        raise TriggerTrouble(sentence(error, connection_name, paths)) from error


def code_of(error: AzureError) -> str:
    """The storage service's code for what is wrong, or the name of the error."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or type(error).__name__)


def sentence(error: AzureError, name: str, paths: BlobPaths) -> str:
    """What an operator can do; never the error's own text, which can hold a signature."""
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return f"The storage account of {name} (BLOB_CONNECTION) cannot be reached; trying again."
    code = code_of(error)
    if code == "ContainerNotFound":
        return (
            f"A container does not exist: {paths.input.container} (BLOB_INPUT_PATH), "
            f"{paths.output.container} (BLOB_OUTPUT_PATH) or {paths.error.container} "
            "(BLOB_ERROR_PATH). Create it; trying again."
        )
    if isinstance(error, ClientAuthenticationError) or code.startswith("Authorization"):
        return (
            f"The storage account refuses {name} (BLOB_CONNECTION): {code}. It needs to read and "
            "write blobs (role Storage Blob Data Contributor)."
        )
    return f"The storage account of {name} (BLOB_CONNECTION) answered {code}; trying again."
