"""Connections named by setting, and the triggers that they turn on."""

from __future__ import annotations

import asyncio
import builtins
import sys

import pytest
from azure.identity.aio import ClientSecretCredential, DefaultAzureCredential

from scoring_runtime.connections import named
from scoring_runtime.connections.named import AZURITE, Connection
from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings.settings import Settings

KEY = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="
STORAGE = f"DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={KEY};EndpointSuffix=x.net"
SAS = f"BlobEndpoint=https://acc.blob.core.windows.net;SharedAccessSignature=sv=1&sig={KEY}"
BUS = f"Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=a;SharedAccessKey={KEY}"
URI = "https://acc.blob.core.windows.net"
HOST = "ns.servicebus.windows.net"
TRIGGER = "TriggerConnectionString"
OWN = "ServiceBusConnectionString"


def settings(environ: dict[str, str]) -> Settings:
    return Settings.from_environ(environ)


# --- which triggers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "triggers"),
    [
        ({}, ("http",)),
        ({TRIGGER: ""}, ("http",)),
        ({TRIGGER: "  "}, ("http",)),
        ({TRIGGER: STORAGE}, ("http", "blob")),
        ({TRIGGER: "UseDevelopmentStorage=true"}, ("http", "blob")),
        ({TRIGGER: BUS}, ("http", "service_bus")),
        ({TRIGGER: BUS.replace("Endpoint=sb", "endpoint = SB")}, ("http", "service_bus")),
        ({f"{TRIGGER}__blobServiceUri": URI}, ("http", "blob")),
        ({f"{TRIGGER}__accountName": "acc"}, ("http", "blob")),
        ({f"{TRIGGER}__fullyQualifiedNamespace": HOST}, ("http", "service_bus")),
        ({f"{TRIGGER}__blobServiceUri": ""}, ("http",)),
        ({f"AzureWebJobs{TRIGGER}": STORAGE}, ("http", "blob")),
        ({f"AzureWebJobs{TRIGGER}__blobServiceUri": URI}, ("http", "blob")),
        ({TRIGGER.upper(): STORAGE}, ("http", "blob")),
        ({OWN: BUS}, ("http", "service_bus")),
        ({TRIGGER: STORAGE, OWN: BUS}, ("http", "blob", "service_bus")),
        ({"BLOB_CONNECTION": "Mine"}, ("http",)),
        ({"BLOB_CONNECTION": "Mine", TRIGGER: STORAGE}, ("http",)),
        ({"BLOB_CONNECTION": "Mine", "Mine": STORAGE}, ("http", "blob")),
        ({"SERVICEBUS_CONNECTION": "Mine", "Mine": BUS}, ("http", "service_bus")),
        ({"SERVICEBUS_CONNECTION": "Mine", TRIGGER: BUS}, ("http",)),
        ({"BLOB_INPUT_FOLDER": "in"}, ("http", "blob")),
        ({"BLOB_INPUT_FOLDER": "in", TRIGGER: BUS}, ("http", "blob", "service_bus")),
        ({"SCORING_TRIGGERS": "blob", TRIGGER: BUS}, ("blob",)),
        ({"SCORING_TRIGGERS": "http", TRIGGER: STORAGE}, ("http",)),
        ({"SCORING_TRIGGERS": "service-bus,blob"}, ("blob", "service_bus")),
    ],
)
def test_triggers_are_those_named_else_http_and_those_connected(environ, triggers):
    assert named.triggers(settings(environ)) == triggers


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, TRIGGER),
        ({OWN: BUS}, OWN),
        ({f"{OWN}__fullyQualifiedNamespace": HOST}, OWN),
        ({"SCORING_TRIGGERS": "blob,service_bus"}, OWN),
        ({"SCORING_TRIGGERS": "http,service_bus"}, TRIGGER),
        ({"SCORING_TRIGGERS": "blob,service_bus", "BLOB_INPUT_FOLDER": "in"}, TRIGGER),
        ({"SERVICEBUS_CONNECTION": "Mine", OWN: BUS}, "Mine"),
    ],
)
def test_the_setting_of_the_service_bus_connection(environ, name):
    assert named.service_bus_name(settings(environ)) == name


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "connection"),
    [
        ({TRIGGER: STORAGE}, Connection(TRIGGER, STORAGE)),
        ({TRIGGER: f" {STORAGE}\n"}, Connection(TRIGGER, STORAGE)),
        ({TRIGGER: SAS}, Connection(TRIGGER, SAS)),
        ({TRIGGER: "UseDevelopmentStorage=true"}, Connection(TRIGGER, AZURITE)),
        ({TRIGGER: "usedevelopmentstorage = True;"}, Connection(TRIGGER, AZURITE)),
        ({f"AzureWebJobs{TRIGGER}": STORAGE}, Connection(TRIGGER, STORAGE)),
        (
            {TRIGGER: STORAGE, f"AzureWebJobs{TRIGGER}": "AccountName=other"},
            Connection(TRIGGER, STORAGE),
        ),
        ({"BLOB_CONNECTION": "Mine", "MINE": STORAGE}, Connection("Mine", STORAGE)),
        ({f"{TRIGGER}__blobServiceUri": URI}, Connection(TRIGGER, address=URI)),
        ({f"{TRIGGER}__serviceUri": URI}, Connection(TRIGGER, address=URI)),
        ({f"{TRIGGER}__accountName": "acc"}, Connection(TRIGGER, address=URI)),
        (
            {f"AzureWebJobs{TRIGGER}__accountName": "acc", f"{TRIGGER}__clientId": "id"},
            Connection(TRIGGER, address=URI, client_id="id"),
        ),
        (
            {
                f"{TRIGGER}__blobServiceUri": URI,
                f"{TRIGGER}__clientId": "id",
                f"{TRIGGER}__tenantId": "tenant",
                f"{TRIGGER}__clientSecret": KEY,
            },
            Connection(TRIGGER, address=URI, client_id="id", tenant_id="tenant", client_secret=KEY),
        ),
    ],
)
def test_storage_connections(environ, connection):
    assert named.blob(settings(environ)) == connection


@pytest.mark.parametrize(
    ("environ", "connection"),
    [
        ({TRIGGER: BUS}, Connection(TRIGGER, BUS)),
        ({OWN: BUS}, Connection(OWN, BUS)),
        ({f"{OWN}__fullyQualifiedNamespace": HOST}, Connection(OWN, address=HOST)),
        (
            {"SERVICEBUS_CONNECTION": "M", "M__fullyQualifiedNamespace": HOST, "M__clientId": "id"},
            Connection("M", address=HOST, client_id="id"),
        ),
    ],
)
def test_service_bus_connections(environ, connection):
    assert named.service_bus(settings(environ)) == connection


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({}, [f"{TRIGGER} is not set, which BLOB_CONNECTION names", "__blobServiceUri"]),
        ({"BLOB_CONNECTION": "Mine"}, ["Mine is not set, which BLOB_CONNECTION names"]),
        ({TRIGGER: " "}, [f"{TRIGGER} is not set"]),
        ({TRIGGER: KEY}, [f"{TRIGGER} (the connection that BLOB_CONNECTION names) is not"]),
        ({TRIGGER: BUS}, [f"{TRIGGER} (the connection that BLOB_CONNECTION names) is not"]),
        ({TRIGGER: f"AccountKey={KEY}"}, [f"{TRIGGER} (the connection that BLOB_CONNECTION"]),
        (
            {f"{TRIGGER}__blobServiceUri": "acc"},
            [f"{TRIGGER}__blobServiceUri has the value 'acc', which is not allowed", "https://"],
        ),
    ],
)
def test_a_wrong_storage_connection_is_refused_and_its_key_not_shown(environ, parts):
    with pytest.raises(ConfigurationError) as caught:
        named.blob(settings(environ))
    assert [part for part in parts if part not in str(caught.value)] == []
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({}, [f"{TRIGGER} is not set, which SERVICEBUS_CONNECTION names"]),
        (
            {"SCORING_TRIGGERS": "blob,service_bus", TRIGGER: STORAGE},
            [f"{OWN} is not set", "__fullyQualifiedNamespace", "SCORING_TRIGGERS"],
        ),
        ({TRIGGER: STORAGE}, [f"{TRIGGER} (the connection that SERVICEBUS_CONNECTION names)"]),
        ({OWN: f"Endpoint=https://x;{KEY}"}, [f"{OWN} (the connection that SERVICEBUS_CONNECTION"]),
        (
            {f"{OWN}__fullyQualifiedNamespace": f"https://{HOST}/"},
            [f"{OWN}__fullyQualifiedNamespace has the value 'https://{HOST}/'", "a host name"],
        ),
        ({OWN: BUS, "SERVICEBUS_INPUT_QUEUE": ""}, ["SERVICEBUS_INPUT_QUEUE is empty"]),
        (
            {OWN: BUS, "SERVICEBUS_OUTPUT_QUEUE": "INPUT"},
            ["SERVICEBUS_OUTPUT_QUEUE has the value 'INPUT'", "SERVICEBUS_INPUT_QUEUE too"],
        ),
    ],
)
def test_a_wrong_service_bus_connection_is_refused_and_its_key_not_shown(environ, parts):
    with pytest.raises(ConfigurationError) as caught:
        named.service_bus(settings(environ))
    assert [part for part in parts if part not in str(caught.value)] == []
    assert KEY not in str(caught.value)


def test_secrets_are_not_in_the_representation():
    shown = repr(Connection("Mine", STORAGE, URI, "id", "tenant", KEY))
    assert KEY not in shown
    assert f"'Mine', address='{URI}', client_id='id', tenant_id='tenant'" in shown


def test_the_emulator_is_the_public_one():
    assert "AccountName=devstoreaccount1;" in AZURITE
    assert "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;" in AZURITE


# --- identities -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "kind"),
    [
        (Connection("Mine", address=URI), DefaultAzureCredential),
        (Connection("Mine", address=URI, client_id="id"), DefaultAzureCredential),
        (
            Connection("Mine", address=URI, client_id="id", tenant_id="t", client_secret=KEY),
            ClientSecretCredential,
        ),
    ],
)
def test_the_credential_is_that_of_the_machine_or_a_service_principal(connection, kind):
    async def made() -> type:
        credential = connection.credential()
        await credential.close()
        return type(credential)

    assert asyncio.run(made()) is kind


def test_a_missing_identity_package_is_said_with_its_setting(monkeypatch):
    installed = builtins.__import__

    def without_identity(name, *more):
        if name == "azure.identity":
            raise ModuleNotFoundError(name)
        return installed(name, *more)

    monkeypatch.delitem(sys.modules, "azure.identity", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_identity)
    with pytest.raises(ConfigurationError, match="Mine asks for an identity, which needs azure-id"):
        Connection("Mine", address=URI).credential()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("blobServiceUri", STORAGE, "AccountKey=***"),
        ("blobServiceUri", f"{URI} ;AccountKey={KEY}", "AccountKey=***"),
        ("accountName", STORAGE, "AccountKey=***"),
        ("fullyQualifiedNamespace", BUS, "SharedAccessKey=***"),
        ("fullyQualifiedNamespace", f"ns;SharedAccessKey={KEY}", "SharedAccessKey=***"),
    ],
)
def test_a_connection_string_in_place_of_an_address_is_not_shown(name, value, shown):
    read = named.service_bus if name == "fullyQualifiedNamespace" else named.blob
    found = settings({f"{TRIGGER}__{name}": value, "SERVICEBUS_CONNECTION": TRIGGER})
    with pytest.raises(ConfigurationError) as caught:
        read(found)
    assert f"{TRIGGER}__{name} has the value" in str(caught.value)
    assert shown in str(caught.value)
    assert KEY[:10] not in str(caught.value)
