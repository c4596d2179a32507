"""Secrets in source files are refused and never shown; what only looks like one is let through."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from scoring_runtime.connections.named import AZURITE
from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging.source import check_no_secrets as check
from scoring_runtime.settings.secrets import MAX_BYTES, is_secret
from scoring_runtime.settings.settings import setting_fields

REPOSITORY = Path(__file__).parents[2]


def _base64(count: int) -> str:
    return base64.b64encode(bytes(each * 37 % 256 for each in range(count))).decode()


STORAGE_KEY, BUS_KEY = _base64(64), _base64(32)
SIGNATURE = BUS_KEY.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
PASSWORD = "hunter2"
ACCOUNT = "DefaultEndpointsProtocol=https;AccountName=acc;"
BUS = "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;"
BLOB = "https://acc.blob.core.windows.net"
INSIGHTS = (
    "InstrumentationKey=0f1e2d3c-0000-4000-8000-000000000001;"
    "IngestionEndpoint=https://westeurope-1.in.applicationinsights.azure.com/"
)

STORAGE, SHARED = "a storage account key (AccountKey=…)", "a shared access key (SharedAccessKey=…)"
SAS, REDIS = "a SAS token (sig=…)", "a Redis password"

SECRETS = {
    "connection string": (f"{ACCOUNT}AccountKey={STORAGE_KEY};EndpointSuffix=x", STORAGE),
    "in Python": (f'conn = "{ACCOUNT}AccountKey={STORAGE_KEY}"', STORAGE),
    "credential=": (f'BlobServiceClient(url, credential="{STORAGE_KEY}")', STORAGE),
    "JSON in JSON": (json.dumps([json.dumps({"account_key": STORAGE_KEY})]), STORAGE),
    "raw text": (f"KEY = r'{STORAGE_KEY}'", STORAGE),
    "Service Bus": (f"{BUS}SharedAccessKey={BUS_KEY}", SHARED),
    "in a dictionary": (f"{{'SharedAccessKey': b'{BUS_KEY}'}}", SHARED),
    "short bus key": (f"{BUS}SharedAccessKey=s3cr3t", SHARED),
    "SAS URL": (f"{BLOB}/c/b?sv=2022-11-02&se=2030-01-01&sr=b&sp=r&sig={SIGNATURE}", SAS),
    "SAS, sig first": (f"{BLOB}/c?sig={SIGNATURE}&se=2030-01-01", SAS),
    "SAS of Service Bus": (
        f"SharedAccessSignature sr=sb%3A%2F%2Fns&sig={SIGNATURE}&se=1700000000&skn=Root",
        SAS,
    ),
    "Redis": (f"redis://:{PASSWORD}@cache.example.org:6379/0", REDIS),
    "Redis cluster": (f"rediss+cluster://:{PASSWORD}@cache.example.org", REDIS),
    "SAS, encoded from the start": (f"{BLOB}/c?se=2030&sig=%2B{SIGNATURE}", SAS),
    "Redis of .NET": (
        f"x.redis.cache.windows.net:6380,password={BUS_KEY},ssl=True,abortConnect=False",
        REDIS,
    ),
}

HARMLESS = {
    "Azurite": AZURITE,
    "Azurite's key": f"account_key='{AZURITE.split('AccountKey=')[1].split(';')[0]}'",
    "Application Insights": INSIGHTS,
    "key in angles": f"{ACCOUNT}AccountKey=<key>;",
    "key of one character": f"{ACCOUNT}AccountKey={'x' * 86}==;",
    "key added": '"AccountKey=" + key',
    "digest of 64 bytes": f'"integrity": "sha512-{STORAGE_KEY}"',
    "bus key in angles": f"{BUS}SharedAccessKey=<key>",
    "bus key in one word": f"{BUS}SharedAccessKey=YourSharedAccessKey",
    "the emulator's": f"{BUS}SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;",
    "bus key by name, formatted": f"{BUS}SharedAccessKey=%(key)s",
    "bus key for Windows": f"{BUS}SharedAccessKey=%BUS_KEY%",
    "SAS filled in": f'f"{BLOB}/c?se=2030&sig={{sig}}"',
    "sig of something else": f"sig={SIGNATURE}",
    "sig is a call": "sig=inspect.signature(f)",
    "sig in a sentence": f"sig=abcdef and se=1 apart, with sv=2: {SIGNATURE}",
    "Redis without password": "redis://localhost:6379/0",
    "Redis in braces": "redis://:{password}@host",
    "Redis by word": "redis://user:password@host",
    "Redis and an address": "redis://localhost:6379 or write to me@example.org",
}


def _refusal(*files: tuple[str, Path]) -> str:
    with pytest.raises(PackagingError) as caught:
        check(files)
    return str(caught.value)


def _written(tmp_path: Path, text: str, name: str = "score.py") -> tuple[str, Path]:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return name, path


ADVICE = (
    ". Whoever has the image would have it too: read it from an environment variable "
    '(os.environ["NAME"]) that is set where the image runs, such as an app setting, or leave the '
    "file out with an ignore file (.scoringignore or .amlignore). A key that others may have seen "
    "should be renewed."
)


@pytest.mark.parametrize(("text", "kind"), SECRETS.values(), ids=SECRETS)
def test_a_secret_is_told_by_its_shape(tmp_path: Path, text: str, kind: str) -> None:
    file = _written(tmp_path, f"import os\r\n\r\n    {text}  # ours\r\n")
    assert _refusal(file) == f"score.py:3 holds {kind}{ADVICE}"
    assert is_secret("SETTING", text)
    assert is_secret("APPLICATIONINSIGHTS_EXTRA", text)


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_what_only_looks_like_a_secret_is_let_through(tmp_path: Path, text: str) -> None:
    check([_written(tmp_path, f"{text}\n"), _written(tmp_path, f'value = "{text}"\n', "b.py")])
    assert not is_secret("SETTING", text)


def test_all_places_are_named_at_once(tmp_path: Path) -> None:
    both = f"{SECRETS['Redis'][0]} {SECRETS['Service Bus'][0]} {SECRETS['Redis'][0]}\n"
    files = [_written(tmp_path, both, "a.py"), _written(tmp_path, f"\n{both}", "b.yml")]
    assert _refusal(*files) == (
        f"a.py:1 holds {SHARED}; a.py:1 holds {REDIS}; b.yml:2 holds {SHARED}; "
        f"b.yml:2 holds {REDIS}{ADVICE}"
    )
    many = _refusal(_written(tmp_path, f"{SECRETS['Redis'][0]}\n" * 13, "c.py"))
    assert many == (
        "; ".join(f"c.py:{line} holds {REDIS}" for line in range(1, 11))
        + f", and 3 more places do{ADVICE}"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_text_of_any_encoding_is_searched(tmp_path: Path, encoding: str) -> None:
    """UTF-16 is what PowerShell writes; a byte that is not UTF-8 hides nothing."""
    path = tmp_path / "settings.txt"
    path.write_bytes(f"Schlüssel\n{SECRETS['Service Bus'][0]}\n".encode(encoding))
    assert _refusal(("settings.txt", path)) == f"settings.txt:2 holds {SHARED}{ADVICE}"


def test_binary_and_large_files_are_not_searched(tmp_path: Path) -> None:
    """Models and data; a text of exactly the limit is."""
    secret = SECRETS["Service Bus"][0]
    _, binary = _written(tmp_path, f"\0{secret}\n", "model.pkl")
    _, large = _written(tmp_path, f"{secret}\n".ljust(MAX_BYTES + 1), "data.csv")
    _, limit = _written(tmp_path, f"{secret}\n".ljust(MAX_BYTES), "text.csv")
    check([("model.pkl", binary), ("data.csv", large)])
    assert _refusal(("text.csv", limit)).startswith("text.csv:1 holds")


@pytest.mark.parametrize("piece", ["redis://", "sig=", "SharedAccessKey=", "password=,"])
def test_a_long_line_of_marks_is_searched_to_its_end(tmp_path: Path, piece: str) -> None:
    secret = f' "{SECRETS["Service Bus"][0]}"'
    text = piece * ((MAX_BYTES - len(secret)) // len(piece)) + secret
    assert SHARED in _refusal(_written(tmp_path, text, "bundle.js"))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.py"
    assert _refusal(("gone.py", path)) == f"{path} cannot be read: No such file or directory."


def test_the_repository_raises_no_false_alarm() -> None:
    folders = ("examples", "tests/entry_scripts", "scoring_runtime", "benchmarks", "deploy")
    found = [path for each in folders for path in (REPOSITORY / each).rglob("*") if path.is_file()]
    assert len(found) > 100
    check([(str(path.relative_to(REPOSITORY)), path) for path in sorted(found)])
    check([("README.md", REPOSITORY / "README.md"), ("host.json", REPOSITORY / "host.json")])


# --- keys and logins ------------------------------------------------------------------------------

KEY, LOGIN, URL = "a private key", "a login", "a password in a URL (//user:…@)"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("keys/id_ed25519", KEY),
        ("certs/Me.P12", KEY),
        (".netrc", LOGIN),
        (".docker/config.json", LOGIN),
        ("home/.kube/config", LOGIN),
        ("kubeconfig-prod.yaml", LOGIN),
    ],
)
def test_files_of_keys_and_logins_are_refused_by_their_name(
    name: str, kind: str, tmp_path: Path
) -> None:
    _, path = _written(tmp_path, "\0")
    assert _refusal((name, path)) == f"{name} is {kind}{ADVICE}"


@pytest.mark.parametrize("name", ["id_rsa.pub", "kubeconfig.py", "docker/config.json", "netrc"])
def test_names_that_resemble_those_are_let_through(name: str, tmp_path: Path) -> None:
    check([(name, _written(tmp_path, "x = 1")[1])])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("-----BEGIN RSA PRIVATE KEY-----", KEY),
        ('"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE\\n"', KEY),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----", KEY),
        ("PuTTY-User-Key-File-3: ssh-ed25519", KEY),
        ("mysql+pymysql://user:s3cr3t@host/db", URL),
        ("//registry.npmjs.org/:_authToken=npm_abcdef012345", "a token of a registry"),
        (f"aws_secret_access_key = {_base64(30)}", "an AWS secret key"),
        ("    client-key-data: LS0tLS1CRUdJTi", "a Kubernetes login"),
        ("current-context: prod", "a Kubernetes login"),
    ],
)
def test_keys_and_logins_are_refused_by_what_they_hold(
    text: str, kind: str, tmp_path: Path
) -> None:
    assert _refusal(_written(tmp_path, f"\n{text}\n")) == f"score.py:2 holds {kind}{ADVICE}"


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PUBLIC KEY-----",
        'if text.startswith("-----BEGIN PRIVATE KEY-----"):',
        "postgresql://{user}:{password}@host",
        "postgresql://user@host:5432/db@x",
        "amqp://guest:guest@localhost:5672//",
        "https://example.org:8080/@scope/package",
        "//registry.npmjs.org/:_authToken=${NPM_TOKEN}",
        "aws_secret_access_key = os.environ['AWS_SECRET_ACCESS_KEY']",
        "print('current-context: x')",
    ],
)
def test_what_only_resembles_a_key_or_login_is_let_through(text: str, tmp_path: Path) -> None:
    check([_written(tmp_path, f"{text}\n")])


@pytest.mark.parametrize("name", ["prod.env", "conf/.env", "a.env.local", ".envrc", "x.tfvars"])
def test_a_file_of_variables_with_secret_names_is_refused(name: str, tmp_path: Path) -> None:
    lines = ["# ours", "MODEL=ridge", "export DB_PASSWORD='hunter2'", "API_KEY = abc123", "TOKEN="]
    _, path = _written(tmp_path, "\n".join(lines))
    assert _refusal((name, path)) == (
        f"{name}:3 holds a secret (DB_PASSWORD); {name}:4 holds a secret (API_KEY){ADVICE}"
    )


@pytest.mark.parametrize("line", ["API_KEY=<key>", "TOKEN=$TOKEN", "PASSWORD=changeme", "A=b"])
def test_a_file_of_variables_without_secrets_is_let_through(line: str, tmp_path: Path) -> None:
    check([("prod.env", _written(tmp_path, f"{line}\n")[1])])


# --- environment variables ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "AZURE_CLIENT_SECRET",
        "TriggerConnectionString",
        "SQL_CONNECTIONSTRING",
        "SAS",
        "storageSas",
        "Blob__clientSecret",
        "DbPassword",
        "SIGNING_KEYS",
    ],
)
def test_a_variable_is_secret_by_its_name(name: str) -> None:
    assert is_secret(name, "s3cr3t")
    assert is_secret(name, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MONKEY", "banana"),
        ("TOKENIZERS_PARALLELISM", "yes"),
        ("KEY_VAULT_NAME", "vault"),
        ("REQUIRE_KEY", "False"),
        ("MAX_TOKENS", "512"),
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", INSIGHTS),
        ("AML_APP_INSIGHTS_KEY", "0f1e2d3c-0000-4000-8000-000000000001"),
        ("TELEMETRY_CONNECTION_STRING", INSIGHTS),
        ("SCORING_TLS_KEY", "/run/secrets/tls.key"),
        ("", ""),
    ],
)
def test_a_variable_is_no_secret(name: str, value: str) -> None:
    assert not is_secret(name, value)


def test_of_settings_those_that_are_marked_are_secret_by_name() -> None:
    """What the others hold is no secret, whatever they are called; unless it looks like one."""
    plain = [each for each in setting_fields() if not each.metadata["secret"]]
    assert [name for each in plain if is_secret(name := each.metadata["name"], "/a/b")] == []
    assert is_secret("SCORING_TLS_KEY", "-----BEGIN PRIVATE KEY-----")
