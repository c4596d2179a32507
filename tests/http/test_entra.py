"""Tokens of Microsoft Entra ID, with keys that a server of this machine tells."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from scoring_runtime import Settings
from scoring_runtime.errors import ConfigurationError, KeyRefused, NotServing
from scoring_runtime.http.entra import Tokens
from tests.conftest import WriteScript
from tests.hosts.issuer import AUDIENCE, CALLER, TENANT, Issuer
from tests.hosts.standalone import StandaloneHost

pytestmark = pytest.mark.anyio
ECHO = "def init(): pass\ndef run(data): return data\n"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as made:
        yield made


def tokens_of(issuer: Issuer) -> Tokens:
    return Tokens(TENANT, ("another", AUDIENCE), issuer.url)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_token_of_either_version_is_its_applications(issuer: Issuer, version: int) -> None:
    """Told apart by the issuer; the keys are fetched once."""
    tokens = tokens_of(issuer)
    for _ in range(3):
        assert await tokens.caller(issuer.token(version=version).encode()) == f"entra:{CALLER}"
    assert issuer.asked == 1


def unsigned(issuer: Issuer) -> str:
    payload = issuer.token().split(".")[1]
    head = base64.urlsafe_b64encode(b'{"alg":"none","kid":"first"}').rstrip(b"=").decode()
    return f"{head}.{payload}."


def signed_with_the_public_key(issuer: Issuer) -> str:
    """As if the published key were a shared secret."""
    public = issuer.key("first").public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    head = {"alg": "HS256", "kid": "first"}
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (head, claims)
    ]
    import hashlib
    import hmac

    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def changed(issuer: Issuer) -> str:
    head, payload, signature = issuer.token().split(".")
    other = issuer.token(azp="someone-else").split(".")[1]
    assert other != payload
    return f"{head}.{other}.{signature}"


OTHER = "99999999-2222-3333-4444-555555555555"
REFUSED = {
    "expired": (lambda each: each.token(exp=time.time() - 120), "it has expired"),
    "another audience": (lambda each: each.token(aud="api://x"), "it is for another audience"),
    "another tenant": (
        lambda each: each.token(iss=f"https://sts.windows.net/{OTHER}/"),
        "another tenant has issued it",
    ),
    "another issuer": (
        lambda each: each.token(iss=f"https://evil.example/{TENANT}/v2.0"),
        "another tenant has issued it",
    ),
    "no expiry": (lambda each: each.token(exp=None), "it is no token of this tenant"),
    "no audience": (lambda each: each.token(aud=None), "it is for another audience|it is no token"),
    "not yet": (lambda each: each.token(nbf=time.time() + 600), "or not valid yet"),
    "another key": (lambda each: each.token("second"), "it is no token of this tenant"),
    "unsigned": (unsigned, "it is no token of this tenant"),
    "HS256": (signed_with_the_public_key, "it is no token of this tenant"),
    "changed": (changed, "it is no token of this tenant"),
    "no token": (lambda each: "a.b.c", "it is no token of this tenant"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
async def test_any_other_token_is_refused_and_says_why(issuer: Issuer, kind: str) -> None:
    """Never with a part of it."""
    make: Any
    make, why = REFUSED[kind]
    with pytest.raises(KeyRefused, match=rf"^The token is refused: .*({why})"):
        await tokens_of(issuer).caller(make(issuer).encode())


async def test_a_new_key_is_found_and_unknown_ones_are_not_asked_for_again_and_again(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entra rolls its keys over at any time; whoever makes up names of keys causes no traffic."""
    tokens = tokens_of(issuer)
    await tokens.caller(issuer.token().encode())
    for number in range(50):
        with pytest.raises(KeyRefused):
            await tokens.caller(issuer.token(f"unknown{number % 2}", jti=str(number)).encode())
    assert issuer.asked == 1
    issuer.names = ["second"]
    later = time.monotonic() + 31
    monkeypatch.setattr("jwt.jwks_client.time.monotonic", lambda: later)
    assert await tokens.caller(issuer.token("second").encode()) == f"entra:{CALLER}"
    assert issuer.asked == 2


async def test_without_the_tenants_keys_nobody_is_let_in_nor_refused(issuer: Issuer) -> None:
    """It is asked again every five seconds, not for each request."""
    tokens = tokens_of(issuer)
    issuer.away = True
    for _ in range(3):
        with pytest.raises(NotServing, match=r"^The keys of the tenant cannot be had; try again "):
            await tokens.caller(issuer.token().encode())
    assert issuer.asked == 1
    issuer.away = False
    tokens._failed -= 5
    assert await tokens.caller(issuer.token().encode()) == f"entra:{CALLER}"


@pytest.mark.parametrize("missing", ["SCORING_ENTRA_TENANT", "SCORING_ENTRA_AUDIENCE"])
def test_tenant_and_audience_go_together(missing: str) -> None:
    environ = {"SCORING_ENTRA_TENANT": TENANT, "SCORING_ENTRA_AUDIENCE": AUDIENCE}
    del environ[missing]
    with pytest.raises(ConfigurationError, match=r"go together: the (tenant|audience) is missing"):
        Tokens.of(Settings.from_environ(environ))
    assert Tokens.of(Settings()) is None


@pytest.mark.parametrize("said", ["https://login.microsoftonline.us/", "login.microsoftonline.us"])
def test_the_authority_is_written_as_for_azure_identity(said: str) -> None:
    settings = Settings(entra_tenant=TENANT, entra_audience=("a",), entra_authority=said)
    found = Tokens.of(settings)
    assert found is not None
    assert found._address == f"https://login.microsoftonline.us/{TENANT}/discovery/v2.0/keys"


@pytest.mark.parametrize(
    "said", ["http://a.example", "file:///etc", "https://a/b", "https://a@b", ""]
)
def test_another_address_is_refused_where_tokens_are_asked_for(said: str) -> None:
    """And only there: others read AZURE_AUTHORITY_HOST too."""
    environ = {"AZURE_AUTHORITY_HOST": said}
    assert Tokens.of(Settings.from_environ(environ)) is None
    environ |= {"SCORING_ENTRA_TENANT": TENANT, "SCORING_ENTRA_AUDIENCE": "a"}
    with pytest.raises(ConfigurationError, match=r"Allowed is an https address without a path\.$"):
        Tokens.of(Settings.from_environ(environ))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt.algorithms", None)
    settings = Settings(entra_tenant=TENANT, entra_audience=("a",))
    with pytest.raises(ConfigurationError, match=r"pip install 'scoring-runtime\[entra\]'"):
        Tokens.of(settings)


def test_tokens_open_scoring_and_not_what_is_an_administrators(
    issuer: Issuer, write_script: WriteScript
) -> None:
    """Beside keys, over HTTP; many at once; the log names the application, and has no token."""
    environ = {
        "SCORING_ENTRA_TENANT": TENANT.upper(),
        "SCORING_ENTRA_AUDIENCE": f"other,{AUDIENCE}",
        "AZURE_AUTHORITY_HOST": f"{issuer.url}/",
        "SCORING_KEYS": "app:app-0123456789abcdef",
    }
    token = issuer.token()
    with StandaloneHost(write_script(ECHO), environ=environ) as host:

        def status(path: str, sent: str) -> int:
            headers = {"authorization": f"Bearer {sent}"}
            return httpx.post(host.url + path, content=b"x" * 70_000, headers=headers).status_code

        assert status("/score", token) == 200
        assert status("/score", "app-0123456789abcdef") == 200
        assert status("/score", issuer.token(aud="other-than-that")) == 401
        assert status("/status", token) == 403
        assert httpx.post(f"{host.url}/score?code={token}").status_code == 401
        with ThreadPoolExecutor(8) as pool:
            sent = [issuer.token(jti=str(number)) for number in range(40)]
            assert set(pool.map(lambda each: status("/score", each), sent)) == {200}
        assert issuer.asked == 1
    assert f" key=entra:{CALLER} [" in host.log
    assert "a token (SCORING_ENTRA_TENANT)" in host.log
    assert token not in host.log
    assert token.split(".")[2] not in host.log


def test_a_tenant_that_is_away_is_503(issuer: Issuer, write_script: WriteScript) -> None:
    """And keys go on opening."""
    issuer.away = True
    environ = {
        "SCORING_ENTRA_TENANT": TENANT,
        "SCORING_ENTRA_AUDIENCE": AUDIENCE,
        "SCORING_ENTRA_AUTHORITY": issuer.url,
        "SCORING_KEYS": "app:app-0123456789abcdef",
    }
    with StandaloneHost(write_script(ECHO), environ=environ) as host:
        for sent, status in ((issuer.token(), 503), ("app-0123456789abcdef", 200)):
            headers = {"authorization": f"Bearer {sent}"}
            answer = httpx.post(f"{host.url}/score", json=1, headers=headers)
            assert answer.status_code == status
    assert "The keys of the tenant cannot be had from " in host.log
