"""Every setting: its default, its check, where its value comes from, and what a wrong one says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings import settings as module
from scoring_runtime.settings.processors import processors
from scoring_runtime.settings.secrets import masked
from scoring_runtime.settings.settings import Settings, environment_name, setting_fields

KEY = "0a1b2c3d-4e5f-6789-ABCD-ef0123456789"

# variable: default, {text: value}, texts that are not allowed
TABLE: dict[str, tuple[object, dict[str, object], list[str]]] = {
    "AZUREML_ENTRY_SCRIPT": ("", {"a/score.py": "a/score.py"}, []),
    "AZUREML_MODEL_DIR": ("", {"models": "models", "": ""}, []),
    "AML_APP_ROOT": ("/var/azureml-app", {"app": "app"}, []),
    "AZUREML_SOURCE_DIRECTORY": ("", {"src": "src"}, []),
    "AZUREML_CONFIG_FILE": ("", {"": ""}, []),
    "SCORING_HOST": ("", {"::1": "::1"}, []),
    "SERVER_PORT": (5001, {"65535": 65535, " 80 ": 80}, ["0", "65536", "80.0", ""]),
    "HEALTH_PORT": (5000, {"9000": 9000}, ["0", "http"]),
    "SEPERATE_HEALTH_ENDPOINT": (False, {"true": True, "True": False, "1": False, "": False}, []),
    "WORKER_COUNT": (1, {"1": 1, "16": 16, "Auto": processors()}, ["0", "-1", "x", "1.5", ""]),
    "WORKER_TIMEOUT": (300.0, {"0": 0.0, "2.5": 2.5}, ["-1", "inf", "nan", "5m"]),
    "WORKER_PRELOAD": (False, {"true": True, "TRUE": True, "1": False, "yes": False}, []),
    "SCORING_MAX_REQUESTS": (0, {"1000": 1000}, ["-1", "many"]),
    "SCORING_MAX_RSS_MB": (0, {"512": 512}, ["-1", "1GB"]),
    "SCORING_SHUTDOWN_SECONDS": (30.0, {"0": 0.0, "0.5": 0.5}, ["-0.1", "soon"]),
    "SCORING_DRAIN_SECONDS": (0.0, {"0": 0.0, "7.5": 7.5}, ["-1", "soon"]),
    "SCORING_RELOAD": ("manual", {"AUTO": "auto", "off": "off"}, ["", "true", "never"]),
    "SCORING_RELOAD_TOLERANCE": (None, {"": None, "0": 0.0, "1e-3": 0.001}, ["-1", "5%", "inf"]),
    "SCORING_RELOAD_SECONDS": (600.0, {"0": 0.0, "90": 90.0}, ["-1", "long"]),
    "SCORING_KEYS": ("", {"app:a-key": "app:a-key"}, []),
    "SCORING_KEYS_FILE": ("", {"/run/keys": "/run/keys"}, []),
    "SCORING_ADMIN_KEYS": ("", {"ops:a-key": "ops:a-key"}, []),
    "SCORING_ADMIN_KEYS_FILE": ("", {"/run/admins": "/run/admins"}, []),
    "SCORING_METRICS_OPEN": (False, {"true": True, "0": False}, ["yes", ""]),
    "SCORING_ENTRA_TENANT": ("", {KEY: KEY.lower(), "": ""}, ["contoso.onmicrosoft.com"]),
    "SCORING_ENTRA_AUDIENCE": ((), {"api://a, b": ("api://a", "b")}, []),
    "SCORING_ENTRA_AUTHORITY": (
        "https://login.microsoftonline.com",
        {"login.microsoftonline.us": "login.microsoftonline.us"},
        [],
    ),
    "SCORING_TLS_CERT": ("", {"/run/tls.crt": "/run/tls.crt"}, []),
    "SCORING_TLS_KEY": ("", {"/run/tls.key": "/run/tls.key"}, []),
    "SCORING_TLS_CA": ("", {"/run/ca.crt": "/run/ca.crt"}, []),
    "SCORING_TIMEOUT_MS": (3_600_000, {"0": 0, "1500": 1500}, ["-1", "abc", "1.5", ""]),
    "SCORING_CONCURRENCY": (1, {"1": 1, "512": 512}, ["0", "513", "x"]),
    "SCORING_MAX_BATCH_SIZE": (1, {"1": 1, "10000": 10_000}, ["0", "10001", "x"]),
    "SCORING_MAX_BATCH_DELAY_MS": (0, {"0": 0, "60000": 60_000}, ["-1", "60001", "1.5"]),
    "SCORING_QUEUE_SIZE": (1000, {"1": 1}, ["0", "many"]),
    "SCORING_MAX_BODY_BYTES": (104_857_600, {"2000000000000": 2_000_000_000_000}, ["0", "100MB"]),
    "SCORING_IDLE_TIMEOUT_SECONDS": (60.0, {"2.5": 2.5, "0": 0.0}, ["-1", "inf", "soon"]),
    "SCORING_MAX_CONNECTIONS": (10_000, {"1": 1}, ["0", "many"]),
    "SCORING_MAX_BYTES_IN_FLIGHT": (1_073_741_824, {"1": 1}, ["0", "1GB"]),
    "SCORING_DEFAULT_MODEL": ("", {"a:1": "a:1"}, []),
    "SCORING_MAX_ROWS": (1_000_000, {"1": 1}, ["0", "many"]),
    "SCORING_MAX_VALUES": (20_000_000, {"1": 1}, ["0", "1e6"]),
    "SCORING_MAX_COLUMNS": (10_000, {"1": 1}, ["0", "1e6"]),
    "SCORING_ONNX_PROVIDERS": ((), {"A, B": ("A", "B"), "": ()}, []),
    "SCORING_ONNX_OPTIMIZATION": ("all", {"Basic": "basic", "extended": "extended"}, ["none", ""]),
    "SCORING_ONNX_INTRA_OP_THREADS": (0, {"0": 0, "1024": 1024}, ["-1", "1025", "x"]),
    "SCORING_ONNX_INTER_OP_THREADS": (1, {"0": 0, "2": 2}, ["-1", "1025", "x"]),
    "SCORING_NAN": ("", {"String": "string", "ERROR": "error", "raw": "raw", "": ""}, ["nan"]),
    "SCORING_STRICT_COMPAT": (
        False,
        {"TRUE": True, "1": True, "false": False, "0": False},
        ["yes", ""],
    ),
    "SCORING_INIT_GRACE_SECONDS": (8.0, {"20": 20.0}, ["-1", "x"]),
    "SCORING_AUTH_LEVEL": ("function", {"anonymous": "anonymous", "ADMIN": "admin"}, ["none", ""]),
    "SCORING_TRIGGERS": ((), {"service-bus, HTTP": ("http", "service_bus"), "": ()}, ["http blob"]),
    "BLOB_CONNECTION": ("", {"Other": "Other"}, []),
    "BLOB_INPUT_PATH": ("input/{blobname}.json", {"in/{x}": "in/{x}"}, []),
    "BLOB_OUTPUT_PATH": ("output/{blobname}_out.json", {"out/{x}": "out/{x}"}, []),
    "BLOB_ERROR_PATH": ("", {"bad/{x}": "bad/{x}"}, []),
    "BLOB_SOURCE": ("LogsAndContainerScan", {"eventgrid": "EventGrid"}, ["Logs", ""]),
    "BLOB_INPUT_FOLDER": ("", {"in": "in"}, []),
    "BLOB_OUTPUT_FOLDER": ("", {"out": "out"}, []),
    "BLOB_POLL_SECONDS": (
        (1.0, 10.0),
        {"2": (2.0, 2.0), "0.5-30": (0.5, 30.0), "1 - 2": (1.0, 2.0)},
        ["0", "10-1", "1-2-3", "x", "", "-1", "nan", "1-inf"],
    ),
    "BLOB_MAX_CONCURRENT": (16, {"1": 1, "1000": 1000}, ["0", "1001", ""]),
    "BLOB_MAX_ATTEMPTS": (5, {"1": 1}, ["0", "-1", "x"]),
    "BLOB_MAX_BYTES": (104857600, {"1": 1}, ["0", "1 MB"]),
    "BLOB_LEASE_SECONDS": (30, {"15": 15, "60": 60}, ["14", "61", ""]),
    "SERVICEBUS_CONNECTION": ("", {"Bus": "Bus"}, []),
    "SERVICEBUS_INPUT_QUEUE": ("input", {"q": "q"}, []),
    "SERVICEBUS_INPUT_SUBSCRIPTION": ("", {"s": "s"}, []),
    "SERVICEBUS_OUTPUT_QUEUE": ("output", {"": "", "q": "q"}, []),
    "SERVICEBUS_MAX_CONCURRENT": (32, {"1": 1, "1000": 1000}, ["0", "1001"]),
    "SERVICEBUS_PREFETCH": (0, {"9": 9}, ["-1", "5001"]),
    "SERVICEBUS_MAX_ATTEMPTS": (5, {"1": 1}, ["0", "x"]),
    "SERVICEBUS_TRANSPORT": ("amqp", {"WebSockets": "websockets"}, ["tcp", ""]),
    "CACHE_URL": ("", {"memory://": "memory://"}, []),
    "REDIS_HOST": ("", {"cache": "cache"}, []),
    "REDIS_PORT": (0, {"6380": 6380}, ["-1", "65536", "x"]),
    "REDIS_USERNAME": ("", {"me": "me"}, []),
    "REDIS_PASSWORD": ("", {"p": "p"}, []),
    "REDIS_SSL": (True, {"false": False, "1": True}, ["yes", ""]),
    "CACHE_TTL_SECONDS": (3600, {"0": 0}, ["-1", "1.5"]),
    "CACHE_MAX_VALUE_BYTES": (1048576, {"1": 1}, ["0"]),
    "CACHE_MAX_INPUT_BYTES": (16777216, {"1": 1}, ["0"]),
    "CACHE_MEMORY_BYTES": (67108864, {"1": 1}, ["0"]),
    "CACHE_PREFIX": ("scoring:", {"": "", "x:": "x:"}, []),
    "CACHE_RAW": (False, {"true": True, "0": False}, ["on"]),
    "CACHE_TIMEOUT_MS": (50, {"1": 1}, ["0", "x"]),
    "SCORING_RECORD": ("", {"records": "records"}, []),
    "SCORING_RECORD_CONNECTION": ("", {"Other": "Other"}, []),
    "SCORING_RECORD_RATE": (1.0, {"0": 0.0, "0.25": 0.25}, ["-0.1", "1.1", "nan", "all", ""]),
    "SCORING_RECORD_MAX_BODY_KB": (256, {"1": 1, "16384": 16_384}, ["0", "16385", "1MB"]),
    "SCORING_RECORD_MAX_MB": (1024, {"1": 1}, ["0", "1GB"]),
    "SCORING_RECORD_REDACT": (
        (),
        {
            "": (),
            "ssn, x-customer": ("ssn", "x-customer"),
            "$.a.b,$..c,$.d[*].e,$['f g'][0]": ("$.a.b", "$..c", "$.d[*].e", "$['f g'][0]"),
        },
        ["$", "$.", "$a", "$.a[?(@.b)]", "$.a[1:2]", "a b", "$.a["],
    ),
    "SCORING_LATER_SECONDS": (3600, {"0": 0, "60": 60}, ["-1", "1.5", "1h"]),
    "SCORING_LATER_MAX": (10_000, {"1": 1}, ["0", "many"]),
    "SCORING_LATER_MAX_BYTES": (268_435_456, {"1": 1}, ["0", "1GB"]),
    "SCORING_LATER_TRIGGER": (
        "",
        {"Service_Bus": "service_bus", "blob": "blob", "": ""},
        ["http", "queue"],
    ),
    "SCORING_LATER_QUEUES": ((), {"a, b": ("a", "b"), "": ()}, []),
    "SCORING_LATER_CONTAINERS": ((), {"a, b": ("a", "b"), "": ()}, []),
    "SERVICE_NAME": ("ML service", {"Iris": "Iris"}, []),
    "SERVICE_VERSION": ("1.0", {"2": "2"}, []),
    "SERVICE_PATH_PREFIX": ("", {"p/q": "p/q"}, []),
    "WORKSPACE_NAME": ("", {"ws": "ws"}, []),
    "HOSTNAME": ("Unknown", {"box": "box"}, []),
    "AML_CORS_ORIGINS": ((), {"http://a, http://b ,,": ("http://a", "http://b"), "": ()}, []),
    "SERVER_VERSION_LOG_RESPONSE_ENABLED": (True, {"True": True, "x": False, "": False}, []),
    "SCORING_PAGES": (True, {"false": False, "1": True}, ["yes", ""]),
    "AZUREML_LOG_LEVEL": ("INFO", {"debug": "DEBUG", "WARNING": "WARNING"}, ["BANANA", "10", ""]),
    "SCORING_LOG_FORMAT": ("text", {"json": "json"}, ["yaml", "JSON "]),
    "AZUREML_DEBUG_PORT": (0, {"5678": 5678, "0": 0}, ["65536", "x"]),
    "AML_MODEL_DC_STORAGE_ENABLED": (False, {"true": True, "no": False}, []),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("", {"http://otel:4318": "http://otel:4318"}, []),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("", {"http://otel/v1": "http://otel/v1"}, []),
    "OTEL_TRACES_EXPORTER": ("", {"OTLP": "otlp", "none": "none", "": ""}, ["zipkin"]),
    "OTEL_SDK_DISABLED": (False, {"True": True, "1": False}, []),
    "OTEL_SERVICE_NAME": ("", {"iris": "iris"}, []),
    "OTEL_TRACES_SAMPLER": ("", {"always_on": "always_on"}, []),
    "OTEL_TRACES_SAMPLER_ARG": ("", {"0.01": "0.01"}, []),
    "APPLICATIONINSIGHTS_CONNECTION_STRING": ("", {"a": "a"}, []),
    "AML_APP_INSIGHTS_ENABLED": (False, {"true": True, "True": False, "1": False}, []),
    "AML_APP_INSIGHTS_KEY": ("", {KEY: KEY, "any": "any"}, []),
    "APP_INSIGHTS_LOG_RESPONSE_ENABLED": (True, {"TRUE": True, "no": False}, []),
}
FIELDS = {each.metadata["name"]: each for each in setting_fields()}
GOOD = [(name, text, value) for name, (_, good, _) in TABLE.items() for text, value in good.items()]
BAD = [(name, text) for name, (*_, bad) in TABLE.items() for text in bad]


def write_config(folder: Path, content: object, name: str = "config.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# --- every setting --------------------------------------------------------------------------------


def test_the_table_holds_every_setting() -> None:
    """In the order of the fields, so that a new setting cannot go untested."""
    assert list(TABLE) == list(FIELDS)


@pytest.mark.parametrize("variable", TABLE)
def test_default(variable: str) -> None:
    attribute, default = FIELDS[variable].name, TABLE[variable][0]
    found = getattr(Settings.from_environ({}), attribute)
    assert (found, type(found)) == (default, type(default))
    assert getattr(Settings(), attribute) == default


@pytest.mark.parametrize(("variable", "text", "value"), GOOD)
def test_good_value(variable: str, text: str, value: object) -> None:
    settings, attribute = Settings.from_environ({variable: text}), FIELDS[variable].name
    found = getattr(settings, attribute)
    assert (found, type(found)) == (value, type(value))
    one: dict[str, Any] = {attribute: value}
    assert settings == dataclasses.replace(Settings(), **one)


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_bad_value_names_variable_value_source_and_what_is_allowed(
    variable: str, text: str
) -> None:
    """Rows 46 and 47: the message is enough to mend it."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environ({variable: text})
    assert str(caught.value) == (
        f"{variable} has the value {text!r} (from the environment), which is not allowed. "
        f"Allowed: {FIELDS[variable].metadata['allowed']}. (environment variable: {variable})"
    )
    assert caught.value.__suppress_context__


def test_bad_value_says_that_it_came_from_the_config_file(tmp_path: Path) -> None:
    write_config(tmp_path, {"WORKER_COUNT": "none"})
    with pytest.raises(ConfigurationError, match=r"^WORKER_COUNT .* \(from the config file\)"):
        Settings.from_environ({"AML_APP_ROOT": str(tmp_path)})


@pytest.mark.parametrize("source", ["command line", "host default"])
def test_bad_value_says_that_it_came_from_the(source: str) -> None:
    argument = {"command line": "command_line", "host default": "defaults"}[source]
    with pytest.raises(ConfigurationError, match=rf"^WORKER_COUNT .* \(from the {source}\)"):
        Settings.from_environ({}, **{argument: {"WORKER_COUNT": "none"}})


def test_a_number_too_long_to_read_is_a_bad_value() -> None:
    with pytest.raises(ConfigurationError, match=r"^SCORING_TIMEOUT_MS has the value '9{5000}'"):
        Settings.from_environ({"SCORING_TIMEOUT_MS": "9" * 5000})


@pytest.mark.parametrize("variable", ["AML_MODEL_DC_STORAGE_ENABLED", "AML_MDC_STORAGE_ENABLED"])
def test_model_data_collection_goes_by_both_names(variable: str) -> None:
    """Row 53: the documented name and the one that images read."""
    assert Settings.from_environ({variable: "true"}).model_data_collection is True


def test_the_documented_name_wins_over_the_other() -> None:
    both = {"AML_MDC_STORAGE_ENABLED": "true", "AML_MODEL_DC_STORAGE_ENABLED": "false"}
    assert Settings.from_environ(both).model_data_collection is False


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings.from_environ({}).sources["port"] = "x"  # type: ignore[index]


def test_environment_name() -> None:
    assert [environment_name(each.name) for each in FIELDS.values()] == list(TABLE)


# --- precedence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "value", "source"),
    [
        ("command line, environment, config file, host default", "1", "command line"),
        ("environment, config file, host default", "2", "environment"),
        ("config file, host default", "3", "config file"),
        ("host default", "4", "host default"),
        ("", "ML service", None),
    ],
)
def test_precedence(places: str, value: str, source: str | None, tmp_path: Path) -> None:
    def said(place: str, value: str) -> dict[str, str]:
        return {"SERVICE_NAME": value} if place in places.split(", ") else {}

    write_config(tmp_path, said("config file", "3"))
    settings = Settings.from_environ(
        {"AML_APP_ROOT": str(tmp_path), **said("environment", "2")},
        command_line=said("command line", "1"),
        defaults=said("host default", "4"),
    )
    assert settings.service_name == value
    assert settings.sources.get("service_name") == source


def test_where_a_value_came_from_is_no_part_of_it() -> None:
    assert Settings.from_environ({"SERVER_PORT": "7"}) == Settings.from_environ(
        {}, command_line={"SERVER_PORT": "7"}
    )


@pytest.mark.parametrize("name", ["SERVER_PORT", "server_port", "Server_Port"])
def test_environment_names_in_any_case(name: str) -> None:
    """As the old server reads them."""
    assert Settings.from_environ({name: "7"}).port == 7


@pytest.mark.parametrize("first", ["SERVER_PORT", "server_port"])
def test_the_exact_name_wins_over_another_case(first: str) -> None:
    both = {"SERVER_PORT": "1", "server_port": "2"}
    ordered = {first: both[first], **both}
    assert Settings.from_environ(ordered).port == 1


def test_unknown_variables_of_the_environment_are_not_looked_at() -> None:
    """PATH and the like neither warn nor fail; what looks like a setting only warns."""
    settings = Settings.from_environ(
        {"PATH": "x", "SCORING_AWAY": "y", "CACHE_LOCATION_OF_MINE": "z"}
    )
    assert settings == Settings()
    assert settings.warnings == (
        "The environment has names that are not settings: CACHE_LOCATION_OF_MINE, SCORING_AWAY.",
    )


def test_what_counts_only_with_another_setting_warns_without_it() -> None:
    """By name: a value may be anything."""
    given = {"SCORING_RECORD_RATE": "0.1", "SCORING_RECORD_MAX_MB": "5"}
    settings = Settings.from_environ(given, command_line={"BLOB_OUTPUT_FOLDER": "results"})
    assert settings.warnings == (
        "BLOB_OUTPUT_FOLDER: of no effect, as BLOB_INPUT_FOLDER is not set.",
        "SCORING_RECORD_MAX_MB, SCORING_RECORD_RATE: of no effect, as SCORING_RECORD is not set.",
    )
    owners = {"SCORING_RECORD": "records", "BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "out"}
    assert Settings.from_environ(given | owners).warnings == ()
    assert Settings.from_environ({"BLOB_OUTPUT_FOLDER": ""}).warnings == ()


# --- the config file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_by", "source"), [("environ", "environment"), ("command_line", "command line")]
)
def test_config_file_by_name(given_by: str, source: str, tmp_path: Path) -> None:
    """AZUREML_CONFIG_FILE, or --config-file, wins over config.json in the app root."""
    write_config(tmp_path, {"SERVER_PORT": 1})
    named = write_config(tmp_path, {"SERVER_PORT": 2}, "other/named.json")
    said = {"environ": {"AML_APP_ROOT": str(tmp_path)}, "command_line": {}}
    said[given_by]["AZUREML_CONFIG_FILE"] = str(named)
    settings = Settings.from_environ(said["environ"], command_line=said["command_line"])
    assert (settings.port, settings.config_file) == (2, str(named))
    assert settings.sources["config_file"] == source


def test_config_file_of_the_command_line_wins_over_the_environments(tmp_path: Path) -> None:
    one = write_config(tmp_path, {"SERVER_PORT": 1}, "one.json")
    two = write_config(tmp_path, {"SERVER_PORT": 2}, "two.json")
    settings = Settings.from_environ(
        {"AZUREML_CONFIG_FILE": str(one)}, command_line={"AZUREML_CONFIG_FILE": str(two)}
    )
    assert settings.port == 2


@pytest.mark.parametrize("root_from", ["environ", "defaults"])
def test_config_json_in_the_app_root(root_from: str, tmp_path: Path) -> None:
    write_config(tmp_path, {"SERVER_PORT": 3})
    root = {"AML_APP_ROOT": str(tmp_path)}
    settings = (
        Settings.from_environ(root)
        if root_from == "environ"
        else Settings.from_environ({}, defaults=root)
    )
    assert settings.port == 3


def test_config_json_next_to_the_script(tmp_path: Path) -> None:
    environ = {"AML_APP_ROOT": str(tmp_path), "AZUREML_ENTRY_SCRIPT": "sub/score.py"}
    write_config(tmp_path / "sub", {"SERVER_PORT": 4})
    assert Settings.from_environ(environ).port == 4
    write_config(tmp_path, {"SERVER_PORT": 5})
    assert Settings.from_environ(environ).port == 5


def test_config_json_is_found_by_names_in_any_case(tmp_path: Path) -> None:
    write_config(tmp_path, {"SERVER_PORT": 6})
    assert Settings.from_environ({"aml_app_root": str(tmp_path)}).port == 6


def test_an_empty_config_json_is_as_good_as_none(tmp_path: Path) -> None:
    """In the app root, the one next to the script is taken then; by name, none is."""
    (tmp_path / "config.json").write_bytes(b"")
    write_config(tmp_path / "sub", {"SERVER_PORT": 4})
    root = {"AML_APP_ROOT": str(tmp_path)}
    assert Settings.from_environ(root).port == 5001
    assert Settings.from_environ({**root, "AZUREML_ENTRY_SCRIPT": "sub/score.py"}).port == 4
    named = {**root, "AZUREML_CONFIG_FILE": str(tmp_path / "config.json")}
    assert Settings.from_environ({**named, "AZUREML_ENTRY_SCRIPT": "sub/score.py"}).port == 5001


def test_a_named_config_file_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "nope.json"
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environ({"AZUREML_CONFIG_FILE": str(missing)})
    assert str(caught.value) == (
        f"Invalid config file! AZUREML_CONFIG_FILE={missing}: no such file."
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7", 7), (7, 7), (7.0, ConfigurationError), (True, ConfigurationError), (None, 5001)],
)
def test_a_config_value_is_read_as_its_text_would_be(
    value: object, expected: object, tmp_path: Path
) -> None:
    """Text and numbers; null is absent; what does not fit is refused."""
    write_config(tmp_path, {"SERVER_PORT": value})
    root = {"AML_APP_ROOT": str(tmp_path)}
    if expected is ConfigurationError:
        with pytest.raises(ConfigurationError, match=r"^SERVER_PORT has the value"):
            Settings.from_environ(root)
    else:
        assert Settings.from_environ(root).port == expected


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), ("true", True)])
def test_json_booleans_switch(value: object, expected: bool, tmp_path: Path) -> None:
    names = ("SEPERATE_HEALTH_ENDPOINT", "SCORING_STRICT_COMPAT", "WORKER_PRELOAD")
    write_config(tmp_path, dict.fromkeys(names, value))
    settings = Settings.from_environ({"AML_APP_ROOT": str(tmp_path)})
    found = (settings.separate_health_endpoint, settings.strict_compat, settings.worker_preload)
    assert found == (expected, expected, expected)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "Expecting property name"),
        (b" ", "Expecting value"),
        (b'{"a": "\xff"}', "'utf-8' codec can't decode byte 0xff"),
        (b"[1]", "expected one JSON object."),
        (b'{"SERVER_PORT": [1]}', "SERVER_PORT is a list; allowed are text, numbers, true and"),
    ],
)
def test_an_invalid_config_file_stops_the_start(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    """The message begins as the old server's, names the file and says what is wrong."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environ({"AML_APP_ROOT": str(tmp_path)})
    assert str(caught.value).startswith(f"Invalid config file! {path}: {problem}")


def test_a_config_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    """A folder of that name is no config file; a name longer than the system allows neither."""
    (tmp_path / "config.json").mkdir()
    assert Settings.from_environ({"AML_APP_ROOT": str(tmp_path)}).port == 5001
    with pytest.raises(ConfigurationError, match=r"^Invalid config file! AZUREML_CONFIG_FILE="):
        Settings.from_environ({"AZUREML_CONFIG_FILE": str(tmp_path / "config.json")})


def test_unknown_keys_only_warn(tmp_path: Path) -> None:
    """All of them in one sentence; keys of settings, the second names included, are not named."""
    known = {"SERVER_PORT": 1, "AML_MDC_STORAGE_ENABLED": "true"}
    known |= {"subscription_id": "", "resource_group": "g", "workspace_name": "w"}  # a workspace's
    path = write_config(tmp_path, {"ZZZ": "1", "AAA": 2, **known})
    settings = Settings.from_environ({"AML_APP_ROOT": str(tmp_path), "OTHER": "x"})
    assert settings.warnings == (f"{path} has keys that are not settings: AAA, ZZZ.",)
    assert (settings.port, settings.model_data_collection) == (1, True)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SCORING_TIMEOUT", "SCORING_TIMEOUT_MS"),
        ("CACHE_TTL", "CACHE_TTL_SECONDS"),
        ("BLOB_OUTPUT_PATTERN", "BLOB_OUTPUT_PATH"),
        ("CACHE_TTL_SECOND", "CACHE_TTL_SECONDS"),
        ("SCORING_TIMEOUT_SECONDS", "SCORING_TIMEOUT_MS"),
        ("SCORING_RELOAD_MS", "SCORING_RELOAD_SECONDS"),
    ],
)
def test_names_like_settings_are_warned_of_with_the_nearest(name: str, nearest: str) -> None:
    expected = (
        "The environment has names that are not settings: "
        f"{name} (the nearest setting is {nearest})."
    )
    assert Settings.from_environ({name: "hunter2"}).warnings == (expected,)


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_CONN__blobServiceUri": "https://a", "BLOB_CONNECTION": "REDIS_CONN"},
        {"BLOB_IN": "DefaultEndpointsProtocol=…", "BLOB_CONNECTION": "BLOB_IN"},
        {"SCORING__nested": "1"},
        {"MY_SCORING_TIMEOUT": "1", "SCORINGX": "1", "PATH": "/bin", "redis_url": "memory://"},
        {
            "REDIS_SERVICE_HOST": "10.0.0.11",
            "REDIS_SERVICE_PORT": "6379",
            "REDIS_SERVICE_PORT_CLIENT": "6379",
            "REDIS_PORT": "tcp://10.0.0.11:6379",
            "REDIS_PORT_6379_TCP": "tcp://10.0.0.11:6379",
            "REDIS_PORT_6379_TCP_PROTO": "tcp",
            "REDIS_PORT_6379_TCP_PORT": "6379",
            "REDIS_PORT_6379_TCP_ADDR": "10.0.0.11",
            "SCORING_HOST_SERVICE_HOST": "10.0.0.12",
            "SCORING_HOST_PORT": "udp://10.0.0.12:53",
            "SERVER_PORT": "tcp://10.0.0.13:80",
            "HEALTH_PORT": "tcp://10.0.0.14:80",
        },
    ],
    ids=["identity", "connection", "nested", "others", "kubernetes"],
)
def test_names_that_belong_to_others_are_not_warned_of(environ: dict[str, str]) -> None:
    """Nor are the addresses that Kubernetes sets for a service read as ports."""
    settings = Settings.from_environ(environ)
    assert settings.warnings == ()
    assert (settings.port, settings.health_port, settings.redis_port) == (5001, 5000, 0)


def test_the_config_file_can_name_the_app_root(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"AML_APP_ROOT": "elsewhere"}, "named.json")
    settings = Settings.from_environ(
        {}, command_line={"AZUREML_CONFIG_FILE": str(path)}, defaults={"AML_APP_ROOT": "cwd"}
    )
    assert settings.app_root == "elsewhere"


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_are_those() -> None:
    secret = [each.name for each in setting_fields() if each.metadata["secret"]]
    assert secret == [
        *("keys", "admin_keys", "cache_url", "redis_password"),
        *("app_insights_string", "app_insights_key"),
    ]


KEY_OF_BUS = "c2VjcmV0LWtleS1vZi10aGUtbmFtZXNwYWNlLTEyMzQ="
SECRET_VALUES = [
    f"DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={KEY_OF_BUS};EndpointSuffix=x.net",
    f"Endpoint=sb://ns.example.net/;SharedAccessKeyName=a;SharedAccessKey={KEY_OF_BUS}",
    f"https://acc.blob.core.windows.net/input/{{b}}.json?sv=1&sp=r&sig={KEY_OF_BUS}",
    f"input/{{blobname}}.json?sv=1&sig={KEY_OF_BUS}",
    f"rediss://user:{KEY_OF_BUS}@host:6380",
    f"postgresql://u:{KEY_OF_BUS}@h/db",
    f"Server=x;User=y;Password={KEY_OF_BUS}",
    KEY_OF_BUS,
]


@pytest.mark.parametrize("value", SECRET_VALUES)
def test_a_secret_in_a_setting_where_it_does_not_belong_is_refused_and_not_shown(
    value: str,
) -> None:
    """The rest of the value is, so that one sees what was taken for the other."""
    for name, field in FIELDS.items():
        if not field.metadata["secret"]:
            with pytest.raises(ConfigurationError) as caught:
                Settings.from_environ({name: value})
            said = str(caught.value)
            assert name in said
            assert KEY_OF_BUS not in said
            assert KEY_OF_BUS[:20] not in said


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (SECRET_VALUES[0], "AccountName=acc;AccountKey=***;EndpointSuffix=x.net"),
        (SECRET_VALUES[4], "rediss://user:***@host:6380"),
        ("redis://:pa/ss@wo:rd@host", "redis://:***@host"),
        ("accountkey = abc", "accountkey = ***"),
        ('{"password": "abc"}', '{"password": "***"}'),
        ("https://h/score?code=abc&x=1", "https://h/score?code=***&x=1"),
        ("https://host:443/a@b", "https://host:443/a@b"),
        ("SharedAccessKeyName=Root", "SharedAccessKeyName=Root"),
        ("/home/me/models/production/sklearn/regression/model", ""),
        ("design=abc", ""),
        ("redis://user@host:6379/0", ""),
    ],
)
def test_what_is_masked(value: str, shown: str) -> None:
    assert masked(value).endswith(shown or value)


@pytest.mark.parametrize("name", ["BLOB_CONNECTION", "SERVICEBUS_CONNECTION"])
@pytest.mark.parametrize("value", ["UseDevelopmentStorage=true", "a b", "https://x"])
def test_the_name_of_a_connection_is_a_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match="Allowed: the name of a setting"):
        Settings.from_environ({name: value})


def test_repr_does_not_show_secrets() -> None:
    settings = Settings.from_environ({"AML_APP_INSIGHTS_KEY": KEY, "SERVICE_NAME": "shown"})
    assert KEY not in repr(settings)
    assert "shown" in repr(settings)


def test_a_bad_secret_is_not_shown_in_its_message() -> None:
    @dataclasses.dataclass
    class WithSecret:
        token: int = module._setting("TOKEN", 0, int, "digits", "", secret=True)

    field = dataclasses.fields(WithSecret)[0]
    with pytest.raises(ConfigurationError) as caught:
        module._parsed(field, "TOKEN", "hunter2", "environment")
    assert str(caught.value) == (
        "TOKEN has the value *** (from the environment), which is not allowed. "
        "Allowed: digits. (environment variable: TOKEN)"
    )
    assert "hunter2" not in repr(caught.value.__cause__)
    assert repr(WithSecret(5)).endswith("WithSecret()")


# --- what follows from them -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("enabled", "key", "active"),
    [
        ("true", KEY, True),
        ("true", "", False),
        ("true", "not-a-uuid", False),
        ("true", f" {KEY}", False),
        ("True", KEY, False),
        ("false", KEY, False),
    ],
)
def test_app_insights_counts_only_when_true_and_with_a_uuid(
    enabled: str, key: str, active: bool
) -> None:
    """Exactly ``true`` together with a key that has the shape of a UUID."""
    environ = {"AML_APP_INSIGHTS_ENABLED": enabled, "AML_APP_INSIGHTS_KEY": key}
    assert Settings.from_environ(environ).app_insights_active is active


@pytest.mark.parametrize(
    ("nan", "strict", "policy"),
    [
        (None, "false", "null"),
        (None, "true", "raw"),
        ("null", "true", "null"),
        ("error", "false", "error"),
    ],
)
def test_nan_policy(nan: str | None, strict: str, policy: str) -> None:
    """SCORING_NAN where it is said; else null, or raw for strict compatibility."""
    said = {} if nan is None else {"SCORING_NAN": nan}
    settings = Settings.from_environ({**said, "SCORING_STRICT_COMPAT": strict})
    assert settings.nan_policy == policy


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("1", 0.001), ("2500", 2.5)])
def test_timeout_seconds(text: str, seconds: float) -> None:
    assert Settings.from_environ({"SCORING_TIMEOUT_MS": text}).timeout_seconds == seconds


@pytest.mark.parametrize(
    ("script", "path"),
    [
        ("", None),
        ("score.py", Path("root/score.py")),
        ("/elsewhere/score.py", Path("/elsewhere/score.py")),
    ],
)
def test_script_path(script: str, path: Path | None) -> None:
    """Below the app root; an absolute path wins; none without an entry script."""
    environ = {"AML_APP_ROOT": "root", "AZUREML_ENTRY_SCRIPT": script}
    assert Settings.from_environ(environ).script_path == path
