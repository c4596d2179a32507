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

from ..blob_paths import BlobPaths
from ..errors import TriggerTrouble


@contextlib.contextmanager
def translated(connection_name: str, paths: BlobPaths) -> Iterator[None]:
    """Raise the SDK's errors as TriggerTrouble."""
    try:
        yield
    except AzureError as error:
        raise TriggerTrouble(sentence(error, connection_name, paths)) from error


def sentence(error: AzureError, name: str, paths: BlobPaths) -> str:
    """What an operator can do; never the error's own text, which can hold a signature."""
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return f"The storage account of {name} (BLOB_CONNECTION) cannot be reached; trying again."
    code = str(getattr(error, "error_code", None) or type(error).__name__)
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
