"""Connections named by setting, as in Azure Functions, and the triggers that they turn on.

A connection is a connection string in the setting ``<name>`` (or ``AzureWebJobs<name>``), or an
address in ``<name>__blobServiceUri`` or ``<name>__fullyQualifiedNamespace`` with an identity:
``<name>__clientId`` for a user-assigned one, with ``<name>__tenantId`` and ``<name>__clientSecret``
for a service principal.
Source: https://learn.microsoft.com/azure/azure-functions/functions-reference#configure-an-identity-based-connection
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..settings.secrets import AZURITE_KEY, masked
from ..settings.settings import Settings

_SERVICE_BUS = "Endpoint=sb://<namespace>.servicebus.windows.net/;SharedAccessKeyName=…;…"
_HOST = re.compile(r"(sb://)?[^/\s;=]+/?")
_URL = re.compile(r"https?://[^\s;]+")
_ACCOUNT = re.compile(r"[A-Za-z0-9-]+")
_STORAGE = "DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…;…"
AZURITE = (
    f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
)
"""What ``UseDevelopmentStorage=true`` stands for."""


@dataclass(frozen=True)
class Connection:
    """Where a service is, and how to sign in: ``text`` is a connection string, else an address."""

    name: str
    text: str = field(default="", repr=False)
    address: str = ""
    client_id: str = ""
    tenant_id: str = ""
    client_secret: str = field(default="", repr=False)

    def credential(self, *, awaited: bool = True) -> Any:
        """An azure.identity.aio credential, or one of azure.identity: the identity of this machine,
        or the one named.

        Raises:
            ConfigurationError: azure-identity is not installed.
        """
        try:
            from azure import identity
            from azure.identity import aio
        except ModuleNotFoundError:
            raise ConfigurationError(
                f"{self.name} asks for an identity, which needs azure-identity: pip install "
                "azure-identity"
            ) from None
        kinds = aio if awaited else identity
        if self.client_secret:
            return kinds.ClientSecretCredential(self.tenant_id, self.client_id, self.client_secret)
        return kinds.DefaultAzureCredential(managed_identity_client_id=self.client_id or None)


def triggers(settings: Settings) -> tuple[str, ...]:
    """The triggers to serve: those named, else http and each whose connection is set."""
    if settings.triggers:
        return settings.triggers
    found = ["http"]
    if settings.blob_input_folder or _turned_on(settings, blob_name(settings), bus=False):
        found.append("blob")
    if _turned_on(settings, service_bus_name(settings), bus=True):
        found.append("service_bus")
    return tuple(found)


def blob_name(settings: Settings) -> str:
    """The name of the setting that holds the storage connection."""
    return settings.blob_connection or "TriggerConnectionString"


def service_bus_name(settings: Settings) -> str:
    """The name of the setting that holds the Service Bus connection."""
    if settings.servicebus_connection:
        return settings.servicebus_connection
    shared = "blob" in settings.triggers and not settings.blob_input_folder
    own = "ServiceBusConnectionString"
    return own if shared or _is_set(settings, own) else "TriggerConnectionString"


def blob(settings: Settings) -> Connection:
    """The storage connection.

    Raises:
        ConfigurationError: it is not set, or is not one; the message names the setting.
    """
    return _storage(settings, blob_name(settings), "BLOB_CONNECTION")


def record(settings: Settings) -> Connection:
    """The storage connection of records; by default the identity at the address of SCORING_RECORD.

    Raises:
        ConfigurationError: as :func:`blob`.
    """
    if not settings.record_connection:
        return Connection("SCORING_RECORD", "", "/".join(settings.record.split("/")[:3]))
    return _storage(settings, settings.record_connection, "SCORING_RECORD_CONNECTION")


def _storage(settings: Settings, name: str, setting: str) -> Connection:
    found = _found(settings, name, ("blobServiceUri", "serviceUri"))
    if found.text.replace(" ", "").rstrip(";").lower() == "usedevelopmentstorage=true":
        return Connection(found.name, AZURITE)
    account = _value(settings, f"{found.name}__accountName")
    if not found.text and not found.address and account:
        _check_address(account, _ACCOUNT, f"{found.name}__accountName", "a storage account's name")
        return Connection(
            found.name, "", f"https://{account}.blob.core.windows.net", found.client_id
        )
    _check(found, setting, "blobServiceUri", _STORAGE)
    if found.text and not _names_account_and_secret(found.text.lower()):
        raise _malformed(found.name, setting, _STORAGE)
    example = "a URL such as https://<account>.blob.core.windows.net"
    _check_address(found.address, _URL, f"{found.name}__blobServiceUri", example)
    return found


def service_bus(settings: Settings) -> Connection:
    """The Service Bus connection.

    Raises:
        ConfigurationError: it is not set, or is not one; the message names the setting.
    """
    _check_queues(settings)
    found = _found(settings, service_bus_name(settings), ("fullyQualifiedNamespace",))
    _check(found, "SERVICEBUS_CONNECTION", "fullyQualifiedNamespace", _SERVICE_BUS)
    if found.text and "endpoint=sb://" not in found.text.lower().replace(" ", ""):
        raise _malformed(found.name, "SERVICEBUS_CONNECTION", _SERVICE_BUS)
    example = "a host name such as <namespace>.servicebus.windows.net"
    _check_address(found.address, _HOST, f"{found.name}__fullyQualifiedNamespace", example)
    return found


def _names_account_and_secret(text: str) -> bool:
    return any(f"{each}=" in text for each in ("accountname", "blobendpoint")) and any(
        f"{each}=" in text for each in ("accountkey", "sharedaccesssignature")
    )


def _found(settings: Settings, name: str, addresses: tuple[str, ...]) -> Connection:
    given = (_value(settings, f"{name}__{each}") for each in addresses)
    return Connection(
        name,
        _value(settings, name),
        next(filter(None, given), ""),
        _value(settings, f"{name}__clientId"),
        _value(settings, f"{name}__tenantId"),
        _value(settings, f"{name}__clientSecret"),
    )


def _value(settings: Settings, name: str) -> str:
    own, prefixed = name.upper(), f"AzureWebJobs{name}".upper()
    return (settings.environ.get(own) or settings.environ.get(prefixed) or "").strip()


def _is_set(settings: Settings, name: str) -> bool:
    prefixes = (f"{name}__".upper(), f"AzureWebJobs{name}__".upper())
    return bool(_value(settings, name)) or any(
        value and each.startswith(prefixes) for each, value in settings.environ.items()
    )


def _turned_on(settings: Settings, name: str, *, bus: bool) -> bool:
    if name != "TriggerConnectionString":
        return _is_set(settings, name)
    # The one name that either trigger may use: what it holds says which it is for.
    text = _value(settings, name).replace(" ", "").lower()
    for_bus = "endpoint=sb://" in text or bool(_value(settings, f"{name}__fullyQualifiedNamespace"))
    return _is_set(settings, name) and for_bus is bus


def _check(found: Connection, setting: str, address: str, example: str) -> None:
    is_trigger = setting != "SCORING_RECORD_CONNECTION"
    if not found.text and not found.address:
        raise ConfigurationError(
            f"{found.name} is not set, which {setting} names as the connection. Set {found.name} "
            f"to a connection string ({example}), or {found.name}__{address} to sign in with an "
            f"identity{', or take the trigger out of SCORING_TRIGGERS' * is_trigger}."
        )


def _check_address(value: str, allowed: re.Pattern[str], setting: str, example: str) -> None:
    if value and not allowed.fullmatch(value):
        raise ConfigurationError(
            f"{setting} has the value {masked(value)!r}, which is not allowed. Allowed: {example}."
        )


def _check_queues(settings: Settings) -> None:
    source, target = settings.servicebus_input_queue, settings.servicebus_output_queue
    if not source:
        raise ConfigurationError(
            "SERVICEBUS_INPUT_QUEUE is empty, which is not allowed. Allowed: the name of a queue, "
            "or of a topic with SERVICEBUS_INPUT_SUBSCRIPTION."
        )
    if source.lower() == target.lower():
        raise ConfigurationError(
            f"SERVICEBUS_OUTPUT_QUEUE has the value {target!r}, which is SERVICEBUS_INPUT_QUEUE "
            "too: each reply would be an input again. Allowed: another queue, or nothing."
        )


def _malformed(name: str, setting: str, example: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} (the connection that {setting} names) is not a connection string of this kind. "
        f"Allowed: {example}"
    )
