"""TLS of the standalone host's port, with files that are renewed while it serves."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..http.watched import Watched
from ..settings.settings import Settings

_HANDSHAKE_SECONDS = 10.0
_GOODBYE_SECONDS = 5.0


class Tls:
    """The certificate, its key, and whose clients are trusted, as the files are now.

    Connections are made with one context, which hands each to the newest: one that there is keeps
    what it was made with, and nothing is half renewed.

    Raises:
        ConfigurationError: a file is missing or not what it should be, the key is encrypted, or is
            none of the certificate's.
    """

    def __init__(self, settings: Settings) -> None:
        self._files = Watched("certificates", _paths(settings), lambda: _context(settings))
        self._context = _context(settings)
        self._context.sni_callback = self._choose

    def look(self) -> None:
        """Take renewed files; those that cannot be used leave what there was."""
        self._files.look()

    @property
    def options(self) -> Mapping[str, Any]:
        """For the calls of an event loop that make connections."""
        return {
            "ssl": self._context,
            "ssl_handshake_timeout": _HANDSHAKE_SECONDS,
            "ssl_shutdown_timeout": _GOODBYE_SECONDS,
        }

    def _choose(self, made: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        """Called in each handshake, also of a client that names no server."""
        made.context = self._files.value


def tls_of(settings: Settings) -> Tls | None:
    """The TLS that the settings ask for, if any.

    Raises:
        ConfigurationError: as :class:`Tls`, or they name a key without a certificate.
    """
    for name, value in (("SCORING_TLS_KEY", settings.tls_key), ("SCORING_TLS_CA", settings.tls_ca)):
        if value and not settings.tls_cert:
            raise ConfigurationError(
                f"{name} is set, but SCORING_TLS_CERT, which turns TLS on, is not."
            )
    return Tls(settings) if settings.tls_cert else None


def _paths(settings: Settings) -> list[str]:
    named = (settings.tls_cert, settings.tls_key or settings.tls_cert, settings.tls_ca)
    return list(dict.fromkeys(filter(None, named)))


def _context(settings: Settings) -> ssl.SSLContext:
    cert, key, ca = settings.tls_cert, settings.tls_key or settings.tls_cert, settings.tls_ca
    key_setting = "SCORING_TLS_KEY" if settings.tls_key else "SCORING_TLS_CERT"
    _check_pem("SCORING_TLS_CERT", cert, "BEGIN CERTIFICATE-----")
    _check_pem(key_setting, key, "PRIVATE KEY-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def password() -> str:
        raise ConfigurationError(f"{key_setting}: the key in {key} is encrypted: decrypt it first.")

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        why = "it is none of the certificate's" if "MISMATCH" in str(error) else error.reason
        raise ConfigurationError(
            f"SCORING_TLS_CERT={cert} and the key in {key} cannot be used: {why}."
        ) from None
    if ca:
        _check_pem("SCORING_TLS_CA", ca, "BEGIN CERTIFICATE-----")
        _trust(context, ca)
    return context


def _trust(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigurationError(f"SCORING_TLS_CA={ca} cannot be used: {error.reason}.") from None
    context.verify_mode = ssl.CERT_REQUIRED
    # A client that goes on with an earlier session would not be looked at again.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _check_pem(setting: str, path: str, mark: str) -> None:
    try:
        text = Path(path).read_text(encoding="latin-1")
    except OSError as error:
        raise ConfigurationError(
            f"{setting} names {path}, which cannot be read: {error.strerror}."
        ) from None
    if mark not in text:
        raise ConfigurationError(f'{setting}: {path} is no PEM file with "{mark}" in it.')
