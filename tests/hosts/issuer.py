"""What a service asks of Microsoft Entra ID: the keys of a tenant; and tokens they sign."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

TENANT = "11111111-2222-3333-4444-555555555555"
AUDIENCE = "api://scoring"
CALLER = "66666666-7777-8888-9999-aaaaaaaaaaaa"


class Issuer:
    """Serves ``/{tenant}/discovery/v2.0/keys`` at ``url``.

    ``names`` are the keys it tells of; ``asked`` counts the questions; with ``away`` it does not
    answer them.
    """

    def __init__(self) -> None:
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self.names = ["first"]
        self.asked = 0
        self.away = False
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                found = self.path == f"/{TENANT}/discovery/v2.0/keys" and not issuer.away
                body = json.dumps({"keys": [issuer.public(name) for name in issuer.names]})
                self.send_response(200 if found else 500)
                self.end_headers()
                self.wfile.write(body.encode() if found else b"")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def key(self, name: str) -> rsa.RSAPrivateKey:
        """The private key of this name, made when it is first asked for."""
        if name not in self._keys:
            self._keys[name] = rsa.generate_private_key(65537, 2048)
        return self._keys[name]

    def public(self, name: str) -> dict[str, Any]:
        """As it is told."""
        told = RSAAlgorithm.to_jwk(self.key(name).public_key(), as_dict=True)
        return {**told, "kid": name, "use": "sig"}

    def token(self, name: str = "first", version: int = 2, **claims: Any) -> str:
        """A token of the service's audience, with other ``claims``; None leaves one out."""
        first = f"https://sts.windows.net/{TENANT}/"
        issued = first if version == 1 else f"{self.url}/{TENANT}/v2.0"
        said = {
            "iss": issued, "aud": AUDIENCE, "exp": time.time() + 3600, "nbf": time.time() - 5,
            "iat": time.time() - 5, "tid": TENANT, "ver": f"{version}.0",
            ("appid" if version == 1 else "azp"): CALLER, **claims,
        }  # fmt: skip
        kept = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(kept, self.key(name), "RS256", {"kid": name})
