"""The Service Bus client that both hosts make, and what its errors mean to an operator."""

from __future__ import annotations

from typing import Any

from azure.servicebus import TransportType
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusQuotaExceededError,
)

from ..errors import ConfigurationError, TriggerTrouble
from ..settings.settings import Settings
from .named import Connection


def client_of(settings: Settings, connection: Connection) -> tuple[ServiceBusClient, Any]:
    """A Service Bus client, and the credential to close after it (None with a key).

    Raises:
        ConfigurationError: the connection string cannot be read.
    """
    options: dict[str, Any] = {"retry_total": 2, "retry_backoff_factor": 0.5}
    options["retry_backoff_max"] = 5
    if settings.servicebus_transport == "websockets":
        options["transport_type"] = TransportType.AmqpOverWebsocket
    if not connection.text:
        credential = connection.credential()
        return ServiceBusClient(connection.address, credential, **options), credential
    try:
        return ServiceBusClient.from_connection_string(connection.text, **options), None
    except (ValueError, KeyError, TypeError, AttributeError):
        # What it says may hold the key.
        raise ConfigurationError(
            f"{connection.name} (the connection that SERVICEBUS_CONNECTION names) is not a Service "
            "Bus connection string. Allowed: Endpoint=sb://…;SharedAccessKeyName=…;"
            "SharedAccessKey=…"
        ) from None


def receiver_of(settings: Settings, client: ServiceBusClient) -> ServiceBusReceiver:
    """A receiver, not connected yet, of the queue or subscription that is scored."""
    name, subscription = settings.servicebus_input_queue, settings.servicebus_input_subscription
    if subscription:
        return client.get_subscription_receiver(name, subscription)
    return client.get_queue_receiver(name)


def trouble(
    error: BaseException, connection_name: str, entity: str, setting: str
) -> TriggerTrouble:
    """What an operator can do about an error of the SDK, at the entity that a setting names.

    Never the SDK's own text.
    """
    named, queue = f"{connection_name} (SERVICEBUS_CONNECTION)", f"The queue {entity!r}"
    condition = getattr(error, "_condition", "")
    away = False
    if condition == "amqp:not-allowed" and "requires sessions" in str(error):
        said = (
            f"{queue} requires sessions, which are not received here ({setting}). Name one without"
        )
    elif condition == "amqp:resource-deleted" or isinstance(error, MessagingEntityNotFoundError):
        said = f"{queue} does not exist ({setting})"
    elif isinstance(error, ServiceBusQuotaExceededError):
        said = f"{queue} is full ({setting})"
    elif isinstance(error, MessagingEntityDisabledError):
        said = f"{queue} is disabled ({setting})"
    elif isinstance(error, ServiceBusAuthenticationError | ServiceBusAuthorizationError):
        said = (
            f"Service Bus refuses {named} for {entity!r} ({setting}): it needs to listen to the "
            "input and send to the output (roles Azure Service Bus Data Receiver and Sender)"
        )
    else:
        away = True
        said = (
            f"Service Bus cannot be reached or does not answer: {named}, {entity!r} ({setting}), "
            f"{type(error).__name__}"
        )
    found = TriggerTrouble(f"{said}. Trying again.")
    found.is_out_of_reach = away
    return found
