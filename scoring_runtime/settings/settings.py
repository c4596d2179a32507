"""Every setting: its name, its default, its check, and where its value came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ConfigurationError
from ..values.content import Limits
from . import kinds
from .secrets import masked

DEFAULT_APP_ROOT = "/var/azureml-app"
DEFAULT_CONNECTIONS = ("TriggerConnectionString", "ServiceBusConnectionString")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PREFIXES = ("SCORING_", "BLOB_", "SERVICEBUS_", "REDIS_", "CACHE_")
# For a service "redis" Kubernetes sets REDIS_SERVICE_HOST, REDIS_PORT_6379_TCP and the like, and
# REDIS_PORT=tcp://10.0.0.11:6379, in every container: that is no setting.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_A_SERVICE = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_ADDRESS_OF_A_SERVICE = re.compile("(tcp|udp|sctp)://.*")
_OWNERS = {
    "BLOB_OUTPUT_FOLDER": "BLOB_INPUT_FOLDER",
    "SCORING_RECORD_": "SCORING_RECORD",
    "OTEL_TRACES_SAMPLER_ARG": "OTEL_TRACES_SAMPLER",
}
_UNIT = re.compile("_(MS|S|SEC|SECONDS|MINUTES|KB|MB|BYTES)$")
# config.json of an Azure ML workspace, which lies beside many scripts.
_OF_A_WORKSPACE = {"subscription_id", "resource_group", "workspace_name", "Id", "Scope", "folder"}
_NOTHING: Mapping[str, str] = MappingProxyType({})


def _setting(
    name: str,
    default: object,
    parse: Callable[[str], object],
    allowed: str,
    doc: str,
    *,
    also: tuple[str, ...] = (),
    secret: bool = False,
    in_results: bool = False,
) -> Any:
    about = {"name": name, "parse": parse, "allowed": allowed, "doc": doc}
    about |= {"also": also, "secret": secret, "in_results": in_results}
    return field(default=default, repr=not secret, metadata=about)


_PORT = kinds.integer(1, 65535)
_PORTS = "1 to 65535"
_SWITCH = "true or false"


@dataclass(frozen=True)
class Settings:
    """The configuration of one process; made once, by :meth:`from_environ`, and handed down."""

    # fmt: off
    entry_script: str = _setting("AZUREML_ENTRY_SCRIPT", "", str, "a path", "The entry script, relative to `AML_APP_ROOT` or absolute. Without it `main.py` is imported.")
    model_dir: str = _setting("AZUREML_MODEL_DIR", "", str, "a folder", "The folder of the model; the script reads the same variable.")
    app_root: str = _setting("AML_APP_ROOT", DEFAULT_APP_ROOT, str, "a folder", "Where the entry script, `config.json`, `logging.json` and own swagger files are looked for. The command line and the Functions host take their working folder instead of the default.")
    source_dir: str = _setting("AZUREML_SOURCE_DIRECTORY", "", str, "a folder", "Put on `sys.path`, relative to `AML_APP_ROOT`.")
    config_file: str = _setting("AZUREML_CONFIG_FILE", "", str, "a JSON file", "Settings by these names; the environment wins over it. Default: `config.json` in `AML_APP_ROOT`, else next to the entry script.")

    host: str = _setting("SCORING_HOST", "", str, "an address", "Address the standalone host listens on. Default: 127.0.0.1, this machine alone; 0.0.0.0 when clients are asked for a key, a token or a certificate, and in the images.")
    port: int = _setting("SERVER_PORT", 5001, _PORT, _PORTS, "Port of the standalone host.")
    health_port: int = _setting("HEALTH_PORT", 5000, _PORT, _PORTS, "Second port, with health and `/metrics` only and without TLS, when `SEPERATE_HEALTH_ENDPOINT` is on.")
    separate_health_endpoint: bool = _setting("SEPERATE_HEALTH_ENDPOINT", False, kinds.exactly_true, "true (this spelling) or anything else", "Listen on `HEALTH_PORT` too.")
    worker_count: int = _setting("WORKER_COUNT", 1, kinds.workers, "a whole number from 1, or auto", "Processes of the standalone host. `auto`: as many as the container's CPU quota allows. The threads of BLAS, OpenMP and onnxruntime are divided among them.")
    worker_timeout: float = _setting("WORKER_TIMEOUT", 300.0, kinds.seconds, "seconds, 0 for none", "Upper bound of one `run()` in the standalone host; `SCORING_TIMEOUT_MS` may be lower.")
    worker_preload: bool = _setting("WORKER_PRELOAD", False, kinds.true_in_any_case, "true or anything else", "Run `init()`, or load the scikit-learn models, once, before the worker processes are forked, if there are several: they share the memory. Models of other kinds are loaded by each.")
    max_requests: int = _setting("SCORING_MAX_REQUESTS", 0, kinds.integer(0), "a whole number, 0 for none", "Standalone host: a process that has scored so many requests, files and messages (up to a tenth more, so that not all are due at once) is replaced by a new one, without a lost request.")
    max_rss_mb: int = _setting("SCORING_MAX_RSS_MB", 0, kinds.integer(0), "a whole number of MB, 0 for none", "Standalone host, on Linux: the same for a process that holds more memory than that.")
    shutdown_seconds: float = _setting("SCORING_SHUTDOWN_SECONDS", 30.0, kinds.seconds, "seconds", "How long SIGTERM waits for what is in flight.")
    drain_seconds: float = _setting("SCORING_DRAIN_SECONDS", 0.0, kinds.seconds, "seconds", "Standalone host: how long after SIGTERM it still takes requests, while `/health/ready` says 503 already: as long as load balancers take to notice. Then it ends as without.")

    reload: str = _setting("SCORING_RELOAD", "manual", kinds.one_of("auto", "manual", "off"), "auto, manual or off", "Standalone host, on Linux: when a new version of a model [takes the place](change-a-model.md) of the one that is served: as soon as it is there, when told to (`POST /models/reload`, SIGHUP), or with a restart alone.")
    reload_tolerance: float | None = _setting("SCORING_RELOAD_TOLERANCE", None, kinds.optional_number, "a number from 0, or nothing", "How far numbers in the answers of a new version to its golden samples may be from those that are expected: a share of the larger one, at least of 1. Without it 0.000001 of an expected answer, and any distance from the old version's, whose form alone counts then.")
    reload_seconds: float = _setting("SCORING_RELOAD_SECONDS", 600.0, kinds.seconds, "seconds", "How long a new version may take to be loaded and compared before it is refused; 0 for no bound.")

    keys: str = _setting("SCORING_KEYS", "", str, "name:key, separated by commas; a key has at least 16 characters", "Turns [keys](keys-and-tls.md) on: who sends one of these may score. They are sent as `Authorization: Bearer`, `x-functions-key` or `?code=`.", secret=True)
    keys_file: str = _setting("SCORING_KEYS_FILE", "", str, "a file with one name:key a line", "The same from a file, which is read again when it changes.")
    admin_keys: str = _setting("SCORING_ADMIN_KEYS", "", str, "name:key, separated by commas", "Keys that open all routes: also `/metrics`, `/status`, `/docs`, `/inputs`, and what changes the service.", secret=True)
    admin_keys_file: str = _setting("SCORING_ADMIN_KEYS_FILE", "", str, "a file with one name:key a line", "The same from a file, which is read again when it changes.")
    metrics_open: bool = _setting("SCORING_METRICS_OPEN", False, kinds.boolean, _SWITCH, "Answer `/metrics` without a key.")
    entra_tenant: str = _setting("SCORING_ENTRA_TENANT", "", kinds.uuid, "the id of a tenant, a UUID", "Tokens of Microsoft Entra ID from this tenant may score (extra `entra`).")
    entra_audience: tuple[str, ...] = _setting("SCORING_ENTRA_AUDIENCE", (), kinds.list_of, "application ids or URIs, separated by commas", "Whom such a token is for: this service, as it is registered.")
    entra_authority: str = _setting("SCORING_ENTRA_AUTHORITY", "https://login.microsoftonline.com", str, "an https address", "Who issues them; another in the clouds of China and the US government.", also=("AZURE_AUTHORITY_HOST",))
    tls_cert: str = _setting("SCORING_TLS_CERT", "", str, "a PEM file", "Turns TLS on, in the standalone host: its certificate and those between it and the root. Renewed files are taken without a restart.")
    tls_key: str = _setting("SCORING_TLS_KEY", "", str, "a PEM file, not encrypted", "The certificate's key. Default: it is in `SCORING_TLS_CERT` too.")
    tls_ca: str = _setting("SCORING_TLS_CA", "", str, "a PEM file", "Clients must have a certificate from one of these authorities.")

    scoring_timeout_ms: int = _setting("SCORING_TIMEOUT_MS", 3_600_000, kinds.integer(0), "a whole number of milliseconds, 0 for none", "Deadline of one request, waiting included; of a blob or a message that of `run()` alone.")
    concurrency: int = _setting("SCORING_CONCURRENCY", 1, kinds.integer(1, 512), "1 to 512", "Scoring threads per process. More than one only for a thread-safe `run()`.")
    max_batch_size: int = _setting("SCORING_MAX_BATCH_SIZE", 1, kinds.integer(1, 10_000), "1 to 10000", "Requests to a model without a script that are scored by one call, when they wait together; their rows are joined and the answers split. 1: each alone. A script says it with `@batched`.", in_results=True)
    max_batch_delay_ms: int = _setting("SCORING_MAX_BATCH_DELAY_MS", 0, kinds.integer(0, 60_000), "0 to 60000", "How long the first request of such a batch waits for others, when nothing is being scored.")
    queue_size: int = _setting("SCORING_QUEUE_SIZE", 1000, kinds.integer(1), "a whole number from 1", "Requests that may wait; one more is answered 503 with Retry-After.")
    max_body_bytes: int = _setting("SCORING_MAX_BODY_BYTES", 100 * 1024 * 1024, kinds.integer(1), "a whole number of bytes from 1", "Largest body of a request or message, as sent and after decompression; a larger one is answered 413.", in_results=True)
    idle_timeout_seconds: float = _setting("SCORING_IDLE_TIMEOUT_SECONDS", 60.0, kinds.seconds, "seconds, 0 for none", "Standalone host: a request of which no byte comes for so long (or which comes, after that time, with less than 500 bytes a second) is answered 408, and an answer that is not read for so long is ended.")
    max_connections: int = _setting("SCORING_MAX_CONNECTIONS", 10_000, kinds.integer(1), "a whole number from 1", "Standalone host: connections per process, and never more than its open files allow (`ulimit -n`, less 64 or an eighth). On one more, health is answered, and all else 503 with Retry-After; of TLS handshakes, which count too, the oldest that stands still gives way.")
    max_bytes_in_flight: int = _setting("SCORING_MAX_BYTES_IN_FLIGHT", 1024**3, kinds.integer(1), "a whole number of bytes from 1", "Standalone host: bytes of all bodies that are received, wait or are scored in one process, at least one of `SCORING_MAX_BODY_BYTES`; a body above it is answered 503 with Retry-After.")
    default_model: str = _setting("SCORING_DEFAULT_MODEL", "", str, "a model served here, as name or name:version", "Of several models without a script, the one that `/score` means. Default: the only one, in its highest version.")
    max_rows: int = _setting("SCORING_MAX_ROWS", 1_000_000, kinds.integer(1), "a whole number from 1", "Rows in one request to a model without a script, or in CSV, JSON Lines, npy and V2; more are answered 413.", in_results=True)
    max_values: int = _setting("SCORING_MAX_VALUES", 20_000_000, kinds.integer(1), "a whole number from 1", "Values (rows times columns) in one such request.", in_results=True)
    max_columns: int = _setting("SCORING_MAX_COLUMNS", 10_000, kinds.integer(1), "a whole number from 1", "Columns, or other inputs by name, in one such request; as many as the model declares are always taken.", in_results=True)
    onnx_providers: tuple[str, ...] = _setting("SCORING_ONNX_PROVIDERS", (), kinds.list_of, "execution providers of onnxruntime, separated by commas", "Where ONNX models run, the first that can. Default: the CPU.", in_results=True)
    onnx_optimization: str = _setting("SCORING_ONNX_OPTIMIZATION", "all", kinds.one_of("disabled", "basic", "extended", "all"), "disabled, basic, extended or all", "Graph optimisation of ONNX models.", in_results=True)
    onnx_intra_op_threads: int = _setting("SCORING_ONNX_INTRA_OP_THREADS", 0, kinds.integer(0, 1024), "0 to 1024", "Threads within an operator of an ONNX model. 0: the processors this container may use, divided by the worker processes.", in_results=True)
    onnx_inter_op_threads: int = _setting("SCORING_ONNX_INTER_OP_THREADS", 1, kinds.integer(0, 1024), "0 to 1024", "Operators of an ONNX model that run side by side; above 1 its graph runs in parallel mode. 0: as many as processors.", in_results=True)
    nan: str = _setting("SCORING_NAN", "", kinds.one_of("null", "string", "error", "raw", ""), "null, string, error or raw", "What NaN and Infinity in a result become: `null` (default), the strings `NaN`, `Infinity`, `-Infinity`, an error, or the bare words that are not JSON (default with `SCORING_STRICT_COMPAT`).", in_results=True)
    strict_compat: bool = _setting("SCORING_STRICT_COMPAT", False, kinds.boolean, _SWITCH, "Answer byte for byte as azureml-inference-server-http: spaced ASCII JSON, NaN written raw, 500 for an input that does not fit the schema.", in_results=True)
    init_grace_seconds: float = _setting("SCORING_INIT_GRACE_SECONDS", 8.0, kinds.seconds, "seconds", "Functions host: how long after the start of the process, whose limit is 10 s, loading `function_app.py` still waits for `init()`; then it goes on in the background.")
    auth_level: str = _setting("SCORING_AUTH_LEVEL", "function", kinds.one_of("anonymous", "function", "admin"), "anonymous, function or admin", "Functions host: the key that /score and /swagger.json ask for. Health is always anonymous.")

    triggers: tuple[str, ...] = _setting("SCORING_TRIGGERS", (), kinds.triggers, "http, blob and service_bus, separated by commas", "The triggers to serve. Default: `http`, and each of `blob` and `service_bus` whose connection is set.")
    blob_connection: str = _setting("BLOB_CONNECTION", "", kinds.setting_name, "the name of a setting", "Name of the setting that holds the storage account's connection string; or, with a managed identity, set `<name>__blobServiceUri`. Default: `TriggerConnectionString`.")
    blob_input_path: str = _setting("BLOB_INPUT_PATH", "input/{blobname}.json", str, "container/name with placeholders", "Which blobs are scored. In a watched folder without it: every file of a type that is read (.json, .csv, .jsonl, .ndjson, .npy; for a script also text, images, audio, video, XML and PDF).")
    blob_output_path: str = _setting("BLOB_OUTPUT_PATH", "output/{blobname}_out.json", str, "container/name with the same placeholders", "Where the result goes. When only `BLOB_INPUT_PATH` is set: that path with `_out`, in the container `output`.")
    blob_error_path: str = _setting("BLOB_ERROR_PATH", "", str, "container/name with the same placeholders", "Where the error document of an input that cannot be scored goes. Default: the output path with `_error` for `_out`, `output/{blobname}_error.json`.")
    blob_source: str = _setting("BLOB_SOURCE", "LogsAndContainerScan", kinds.one_of("LogsAndContainerScan", "EventGrid"), "LogsAndContainerScan or EventGrid", "Functions host: how it learns of new blobs. Event Grid is quicker and needs a subscription.")
    blob_input_folder: str = _setting("BLOB_INPUT_FOLDER", "", str, "a folder", "Standalone host: watch this local folder in place of a container (`--watch`).")
    blob_output_folder: str = _setting("BLOB_OUTPUT_FOLDER", "", str, "a folder", "Standalone host: local folder for output and error documents (`--output`). Default: `output` next to the watched folder.")
    blob_poll_seconds: tuple[float, float] = _setting("BLOB_POLL_SECONDS", (1.0, 10.0), kinds.interval, "seconds, or shortest-longest as in 1-10", "Standalone host: how often it looks for new blobs; the interval grows while there are none. In a watched folder the system tells of new files at once, but in network folders, or without the package watchfiles.")
    blob_max_concurrent: int = _setting("BLOB_MAX_CONCURRENT", 16, kinds.integer(1, 1000), "1 to 1000", "Standalone host: blobs in flight; each is held in memory.")
    blob_max_attempts: int = _setting("BLOB_MAX_ATTEMPTS", 5, kinds.integer(1), "a whole number from 1", "Standalone host: how often a blob is tried before it gets an error document. In Functions: `poisonBlobThreshold` in host.json.")
    blob_max_bytes: int = _setting("BLOB_MAX_BYTES", 100 * 1024 * 1024, kinds.integer(1), "a whole number of bytes from 1", "A larger blob gets an error document without being downloaded.")
    blob_lease_seconds: int = _setting("BLOB_LEASE_SECONDS", 30, kinds.integer(15, 60), "15 to 60", "Standalone host: lease on a blob while it is scored, renewed as long as that takes. A blob of a killed process is taken up again after it.")
    servicebus_connection: str = _setting("SERVICEBUS_CONNECTION", "", kinds.setting_name, "the name of a setting", "Name of the setting that holds the Service Bus connection string; or, with a managed identity, set `<name>__fullyQualifiedNamespace`. Default: `ServiceBusConnectionString`; when blob is off, `TriggerConnectionString`.")
    servicebus_input_queue: str = _setting("SERVICEBUS_INPUT_QUEUE", "input", str, "a queue", "The queue whose messages are scored; with `SERVICEBUS_INPUT_SUBSCRIPTION` the topic.")
    servicebus_input_subscription: str = _setting("SERVICEBUS_INPUT_SUBSCRIPTION", "", str, "a subscription", "Score the messages of this subscription; `SERVICEBUS_INPUT_QUEUE` names its topic.")
    servicebus_output_queue: str = _setting("SERVICEBUS_OUTPUT_QUEUE", "output", str, "a queue or topic, or nothing", "Where replies go to messages without `reply_to`. Empty: those get none.")
    servicebus_max_concurrent: int = _setting("SERVICEBUS_MAX_CONCURRENT", 32, kinds.integer(1, 1000), "1 to 1000", "Standalone host: most messages in flight; fewer when `run()` is slow, so that each begins in half of `SCORING_TIMEOUT_MS`. In Functions: `maxConcurrentCalls` in host.json.")
    servicebus_prefetch: int = _setting("SERVICEBUS_PREFETCH", 0, kinds.integer(0, 5000), "0 to 5000", "Standalone host: messages held ready beside those in flight; their locks are renewed too.")
    servicebus_max_attempts: int = _setting("SERVICEBUS_MAX_ATTEMPTS", 5, kinds.integer(1), "a whole number from 1", "When `run()` fails on a message that has been delivered so many times, it gets an error reply and goes to the dead-letter queue. Counted are deliveries, by the broker: those that ended with a killed host or a lost lock too, not those that a host gave back when it stopped. A reply to a `reply_to` that does not take it is tried as often. Keep it below the queue's own maximum (10).")
    servicebus_transport: str = _setting("SERVICEBUS_TRANSPORT", "amqp", kinds.one_of("amqp", "websockets"), "amqp or websockets", "websockets goes over port 443 where 5671 is closed.")

    cache_url: str = _setting("CACHE_URL", "", str, "memory://, redis://…, rediss://…, redis+cluster://… or rediss+cluster://…", "Turns the cache on: `memory://` in this process, else a Redis server.", also=("REDIS_URL",), secret=True)
    redis_host: str = _setting("REDIS_HOST", "", str, "a host name", "The same with a host name, TLS unless `REDIS_SSL` is off.")
    redis_port: int = _setting("REDIS_PORT", 0, kinds.integer(0, 65535), "1 to 65535", "Default: 6380 with TLS (as Azure has it), 6379 without.")
    redis_username: str = _setting("REDIS_USERNAME", "", str, "a user", "ACL user; with Entra ID the object id of the identity.")
    redis_password: str = _setting("REDIS_PASSWORD", "", str, "a password or access key", "Without one, an Azure host is given an Entra ID token (azure-identity).", also=("REDIS_KEY",), secret=True)
    redis_ssl: bool = _setting("REDIS_SSL", True, kinds.boolean, _SWITCH, "TLS to `REDIS_HOST`.")
    cache_ttl_seconds: int = _setting("CACHE_TTL_SECONDS", 3600, kinds.integer(0), "a whole number of seconds", "How long results and inputs are kept; 0 keeps no results.")
    cache_max_value_bytes: int = _setting("CACHE_MAX_VALUE_BYTES", 1024 * 1024, kinds.integer(1), "a whole number of bytes from 1", "Larger results are not kept.")
    cache_max_input_bytes: int = _setting("CACHE_MAX_INPUT_BYTES", 16 * 1024 * 1024, kinds.integer(1), "a whole number of bytes from 1", "Largest input that `PUT /inputs/{key}` keeps.")
    cache_memory_bytes: int = _setting("CACHE_MEMORY_BYTES", 64 * 1024 * 1024, kinds.integer(1), "a whole number of bytes from 1", "Size of `memory://`; what was used least recently goes first.")
    cache_prefix: str = _setting("CACHE_PREFIX", "scoring:", str, "text", "What every key in Redis begins with; another one is an empty cache.")
    cache_raw: bool = _setting("CACHE_RAW", False, kinds.boolean, _SWITCH, "Keep results of scripts that see headers too (`@rawhttp`, `request_headers`): only if they do not depend on them.")
    cache_timeout_ms: int = _setting("CACHE_TIMEOUT_MS", 50, kinds.integer(1), "a whole number of milliseconds from 1", "How long a request waits for Redis, connecting included, before it is scored without.")

    record: str = _setting("SCORING_RECORD", "", str, "a folder, or https://<account>.blob.core.windows.net/<container>, without a SAS token", "Keeps requests and answers, and what `ModelDataCollector` and `Collector` collect, as files: see [Record and replay](record.md).")
    record_connection: str = _setting("SCORING_RECORD_CONNECTION", "", kinds.setting_name, "the name of a setting", "Name of the setting that holds the connection string of that account. Default: the identity of this machine signs in.")
    record_rate: float = _setting("SCORING_RECORD_RATE", 1.0, kinds.share, "0 to 1", "The share of requests that is kept; 0.01 is 1 %. 0 keeps only what scripts collect.")
    record_max_body_kb: int = _setting("SCORING_RECORD_MAX_BODY_KB", 256, kinds.integer(1, 16 * 1024), "1 to 16384", "Of a larger body only the size is kept.")
    record_max_mb: int = _setting("SCORING_RECORD_MAX_MB", 1024, kinds.integer(1), "a whole number of MB from 1", "All files of the folder together, or those that wait for the container; the oldest are removed.")
    record_redact: tuple[str, ...] = _setting("SCORING_RECORD_REDACT", (), kinds.hidden_fields, "names of fields, headers and query parameters, and JSON paths such as $.customer.name, $..ssn or $.rows[*].id, separated by commas", "What is not kept beside the secrets, which never are.")

    later_seconds: int = _setting("SCORING_LATER_SECONDS", 3600, kinds.integer(0), "a whole number of seconds, 0 for never", "How long an [answer that came later](http.md#answers-later) is kept; 0: `Prefer: respond-async` is ignored.")
    later_max: int = _setting("SCORING_LATER_MAX", 10_000, kinds.integer(1), "a whole number from 1", "Inputs that wait and answers that are kept; one more is answered 503.")
    later_max_bytes: int = _setting("SCORING_LATER_MAX_BYTES", 256 * 1024 * 1024, kinds.integer(1), "a whole number of bytes from 1", "Size of them all.")
    later_trigger: str = _setting("SCORING_LATER_TRIGGER", "", kinds.one_of("service_bus", "blob", ""), "service_bus, blob or nothing", "The trigger that such inputs go by: as messages of `SERVICEBUS_INPUT_QUEUE`, or, in the standalone host, as blobs of `BLOB_INPUT_PATH`.")
    later_queues: tuple[str, ...] = _setting("SCORING_LATER_QUEUES", (), kinds.list_of, "queues or topics, separated by commas", "What `x-callback-queue` may name. Default: `SERVICEBUS_OUTPUT_QUEUE` alone.")
    later_containers: tuple[str, ...] = _setting("SCORING_LATER_CONTAINERS", (), kinds.list_of, "containers, separated by commas", "Where the blob may lie that `x-callback-blob` names. Default: the container of `BLOB_OUTPUT_PATH` alone.")

    service_name: str = _setting("SERVICE_NAME", "ML service", str, "text", "Title in the swagger documents.")
    service_version: str = _setting("SERVICE_VERSION", "1.0", str, "text", "Version in the swagger documents.")
    service_path_prefix: str = _setting("SERVICE_PATH_PREFIX", "", str, "a path", "Prefix of the paths in the swagger documents; the routes stay.")
    workspace_name: str = _setting("WORKSPACE_NAME", "", str, "text", "Name of the workspace, as Application Insights are told it.")
    hostname: str = _setting("HOSTNAME", "Unknown", str, "text", "Name of this host, as Application Insights are told it.")
    cors_origins: tuple[str, ...] = _setting("AML_CORS_ORIGINS", (), kinds.list_of, "origins separated by commas, or *", "Origins whose pages may call this service.")
    server_version_header: bool = _setting("SERVER_VERSION_LOG_RESPONSE_ENABLED", True, kinds.true_in_any_case, "true or anything else", "Send `x-ms-server-version`.")

    pages: bool = _setting("SCORING_PAGES", True, kinds.boolean, _SWITCH, "The page for browsers at `/` and `/docs`, and `/status`. On Functions they ask for the key, as `/score` does.")

    log_level: str = _setting("AZUREML_LOG_LEVEL", "INFO", kinds.one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "DEBUG, INFO, WARNING, ERROR or CRITICAL", "Least level that is logged.")
    log_format: str = _setting("SCORING_LOG_FORMAT", "text", kinds.one_of("text", "json"), "text or json", "Standalone host: `json` writes each record as one JSON object, with the request's id. A `logging.json` of your own wins.")
    debug_port: int = _setting("AZUREML_DEBUG_PORT", 0, kinds.integer(0, 65535), _PORTS, "Connect to the debugger that listens there (debugpy) and wait for it.")
    model_data_collection: bool = _setting("AML_MODEL_DC_STORAGE_ENABLED", False, kinds.true_in_any_case, "true or anything else", "Where `SCORING_RECORD` is set, false keeps nothing of what `ModelDataCollector` and `Collector` collect. Without `SCORING_RECORD` they keep nothing.", also=("AML_MDC_STORAGE_ENABLED",))

    otlp_endpoint: str = _setting("OTEL_EXPORTER_OTLP_ENDPOINT", "", str, "an http or https address", "Turns [traces](operate.md#traces) on: they go there by OTLP over HTTP, to the path /v1/traces.")
    otlp_traces_endpoint: str = _setting("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", str, "an http or https address", "The same, with its whole path.")
    traces_exporter: str = _setting("OTEL_TRACES_EXPORTER", "", kinds.one_of("otlp", "none", ""), "otlp, none or nothing", "`otlp` turns traces on without an address: they go to http://localhost:4318. `none` sends none by OTLP.")
    otel_disabled: bool = _setting("OTEL_SDK_DISABLED", False, kinds.true_in_any_case, "true or anything else", "No traces at all, not to Application Insights either.")
    otel_service_name: str = _setting("OTEL_SERVICE_NAME", "", str, "text", "Name of the service in traces. Default: `SERVICE_NAME`, or scoring-runtime.")
    traces_sampler: str = _setting("OTEL_TRACES_SAMPLER", "", str, "always_on, always_off, traceidratio, each also with parentbased_ before it", "Which traces are sampled. Default: parentbased_always_on, all but those whose caller has left them out.")
    traces_sampler_arg: str = _setting("OTEL_TRACES_SAMPLER_ARG", "", str, "0 to 1", "The share that traceidratio samples: 0.01 is 1 %.")
    app_insights_string: str = _setting("APPLICATIONINSIGHTS_CONNECTION_STRING", "", str, "a connection string of Application Insights", "Standalone host: requests, exceptions and the script's log lines go there. On Azure Functions the host itself sends them.", secret=True)
    app_insights_enabled: bool = _setting("AML_APP_INSIGHTS_ENABLED", False, kinds.exactly_true, "true (this spelling) or anything else", "The same with a key, as the images of Azure ML have it; seen by the script. Counts only with a key that is a UUID.")
    app_insights_key: str = _setting("AML_APP_INSIGHTS_KEY", "", str, "a UUID", "The instrumentation key; see `AML_APP_INSIGHTS_ENABLED`.", secret=True)
    app_insights_log_response: bool = _setting("APP_INSIGHTS_LOG_RESPONSE_ENABLED", True, kinds.true_in_any_case, "true or anything else", "Whether each request that is sent there has its answer, up to 8192 bytes (`Response Value`).")
    # fmt: on

    environ: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What was set, by names in upper case: connections are named by setting."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    versions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The versions of each model that are served, the one in force last; without it those that are
    noted, or all."""

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        *,
        command_line: Mapping[str, str] = _NOTHING,
        defaults: Mapping[str, str] = _NOTHING,
    ) -> Settings:
        """Read the settings from ``environ`` and the JSON file it names.

        Precedence: ``command_line``, ``environ`` (names in any case), config file, ``defaults``
        of the host, the default. All three mappings go by the variables' names.

        Raises:
            ConfigurationError: naming variable, value, where it came from and what is allowed.
        """
        environ = _without_services(environ)
        any_case = {**{name.upper(): value for name, value in environ.items()}, **environ}
        sources: dict[str, Mapping[str, str]] = {
            "command line": command_line,
            "environment": any_case,
        }
        path = _config_file(sources, defaults)
        sources["config file"] = _read_config(path) if path else {}
        sources["host default"] = defaults
        values: dict[str, Any] = {}
        found: dict[str, str] = {}
        for each in setting_fields():
            given = ((s, n) for s, mapping in sources.items() for n in _names(each) if n in mapping)
            if first := next(given, None):
                source, name = first
                values[each.name] = _parsed(each, name, sources[source][name], source)
                found[each.name] = source
        said = {**sources["config file"], **environ, **command_line}
        settings = cls(
            **values,
            environ=MappingProxyType({name.upper(): value for name, value in said.items()}),
            sources=MappingProxyType(found),
        )
        unknown = _unknown(sources["config file"], path, environ, settings)
        return replace(settings, warnings=(*unknown, *_idle(settings)))

    @property
    def nan_policy(self) -> str:
        """``null``, ``string``, ``error`` or ``raw``."""
        return self.nan or ("raw" if self.strict_compat else "null")

    @property
    def app_insights_active(self) -> bool:
        """Enabled, and with a key that has the shape of a UUID."""
        return self.app_insights_enabled and bool(_UUID.fullmatch(self.app_insights_key))

    @property
    def app_insights_connection(self) -> str:
        """The connection string of Application Insights, or nothing."""
        if self.otel_disabled or self.app_insights_string:
            return "" if self.otel_disabled else self.app_insights_string
        return f"InstrumentationKey={self.app_insights_key}" if self.app_insights_active else ""

    @property
    def traces_by_otlp(self) -> bool:
        """Whether traces are asked for."""
        wanted = self.traces_exporter or self.otlp_endpoint or self.otlp_traces_endpoint
        return bool(wanted) and self.traces_exporter != "none" and not self.otel_disabled

    @property
    def limits(self) -> Limits:
        """How much one request to a model, or in a format of arrays or tables, may hold."""
        return Limits(self.max_rows, self.max_values, self.max_body_bytes, self.max_columns)

    @property
    def changing_results(self) -> dict[str, Any]:
        """What can change the answer to a request, by attribute: part of what a cache goes by."""
        marked = (each.name for each in setting_fields() if each.metadata["in_results"])
        return {name: getattr(self, name) for name in marked}

    @property
    def asks_for_keys(self) -> bool:
        """Whether a client needs a key or a token."""
        given = (self.keys, self.keys_file, self.admin_keys, self.admin_keys_file)
        return any(given) or bool(self.entra_tenant or self.entra_audience)

    @property
    def address(self) -> str:
        """Where the standalone host listens: on this machine only, unless clients have to be known."""
        return self.host or ("0.0.0.0" if self.asks_for_keys or self.tls_ca else "127.0.0.1")

    @property
    def recycles(self) -> bool:
        """Whether a process of the standalone host is replaced by and by."""
        return bool(self.max_requests or self.max_rss_mb)

    @property
    def shares_sockets(self) -> bool:
        """Whether several processes may listen at the same time."""
        return self.worker_count > 1 or self.recycles

    @property
    def cached(self) -> bool:
        return bool(self.cache_url or self.redis_host)

    @property
    def connection_names(self) -> tuple[str, ...]:
        """The names that settings with connections may have."""
        named = (self.blob_connection, self.servicebus_connection, self.record_connection)
        return (*filter(None, named), *DEFAULT_CONNECTIONS)

    @property
    def timeout_seconds(self) -> float:
        """Deadline of one request in seconds; 0 is none."""
        return self.scoring_timeout_ms / 1000

    @property
    def script_path(self) -> Path | None:
        """The entry script's file, or None when ``main`` is to be imported."""
        return Path(self.app_root, self.entry_script) if self.entry_script else None


def setting_fields() -> tuple[Field[Any], ...]:
    """The dataclass fields that are settings, in the order of their tables."""
    return tuple(each for each in fields(Settings) if "name" in each.metadata)


def setting_names(*, secret: bool = False) -> tuple[str, ...]:
    """Every name that a setting has, or only those of settings whose values are ``secret``."""
    chosen = (each for each in setting_fields() if each.metadata["secret"] or not secret)
    return tuple(name for each in chosen for name in _names(each))


def nearest_setting(name: str, likeness: float = 0.6) -> str:
    """The setting that a wrong name may mean: the same in another unit, one that begins with it,
    or one of this ``likeness``, from 0 to 1; nothing if none is."""
    import difflib

    upper, known, close = name.upper(), setting_names(), difflib.get_close_matches
    units = [each for each in known if _UNIT.search(each)]
    same = [each for each in units if _UNIT.sub("", each) == _UNIT.sub("", upper)]
    longer = [each for each in known if each.startswith(upper)]
    found = same or close(upper, longer, 1) or close(upper, known, 1, likeness)
    return found[0] if found else ""


def environment_name(attribute: str) -> str:
    """The variable behind a Settings attribute: ``port`` → ``SERVER_PORT``."""
    return next(str(f.metadata["name"]) for f in setting_fields() if f.name == attribute)


def _parsed(each: Field[Any], name: str, value: str, source: str) -> object:
    secret = each.metadata["secret"]
    shown = "***" if secret else repr(masked(value))
    try:
        # What looks like a secret belongs into no setting that is shown elsewhere.
        if not secret and shown != repr(value):
            raise ValueError
        return each.metadata["parse"](value)
    except (ValueError, KeyError, OverflowError):
        raise ConfigurationError(
            f"{name} has the value {shown} (from the {source}), which is not allowed. "
            f"Allowed: {each.metadata['allowed']}. (environment variable: {name})"
        ) from None


def _config_file(
    sources: Mapping[str, Mapping[str, str]], defaults: Mapping[str, str]
) -> Path | None:
    said = {**defaults, **sources["environment"], **sources["command line"]}
    if said.get("AZUREML_CONFIG_FILE"):
        return _not_empty(Path(said["AZUREML_CONFIG_FILE"]), must_exist=True)
    root = Path(said.get("AML_APP_ROOT", DEFAULT_APP_ROOT))
    places = [root]
    if said.get("AZUREML_ENTRY_SCRIPT"):
        places.append((root / said["AZUREML_ENTRY_SCRIPT"]).parent)
    found = (_not_empty(place / "config.json") for place in places)
    return next((path for path in found if path is not None), None)


def _not_empty(path: Path, must_exist: bool = False) -> Path | None:
    if path.is_file():
        return path if path.stat().st_size else None
    if must_exist:
        named = masked(str(path))
        raise ConfigurationError(f"Invalid config file! AZUREML_CONFIG_FILE={named}: no such file.")
    return None


def _read_config(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Invalid config file! {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"Invalid config file! {path}: expected one JSON object.")
    return {key: _as_text(path, key, value) for key, value in content.items() if value is not None}


def _as_text(path: Path, key: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigurationError(
        f"Invalid config file! {path}: {key} is a {type(value).__name__}; "
        "allowed are text, numbers, true and false."
    )


def _without_services(environ: Mapping[str, str]) -> Mapping[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if not (_ADDRESS_OF_A_SERVICE.match(value) and name.upper().endswith("_PORT"))
        and not _OF_A_SERVICE.fullmatch(name.upper())
    }


def _unknown(
    config: Mapping[str, str], path: Path | None, environ: Mapping[str, str], settings: Settings
) -> tuple[str, ...]:
    """Warnings by name of what is given, looks like a setting, and is none; never with a value."""
    known = setting_names()
    connections = [each.upper() for each in settings.connection_names]
    ours = [name for name in environ if name.upper().startswith(_PREFIXES) and "__" not in name]
    given = {
        f"{path} has keys": [n for n in config if n not in known and n not in _OF_A_WORKSPACE],
        "The environment has names": [name for name in ours if name.upper() not in known],
    }
    warnings = []
    for where, names in given.items():
        rest = [name for name in names if name.upper().partition("__")[0] not in connections]
        if rest:
            listed = ", ".join(_with_nearest(name) for name in sorted(rest))
            warnings.append(f"{where} that are not settings: {listed}.")
    return tuple(warnings)


def _idle(settings: Settings) -> Iterator[str]:
    """Warnings by name of what is given and counts only with another, which is not."""
    given = {environment_name(each): getattr(settings, each) for each in settings.sources}
    for beginning, owner in _OWNERS.items():
        idle = [name for name, value in given.items() if name.startswith(beginning) and value]
        if idle and not given.get(owner):
            yield f"{', '.join(sorted(idle))}: of no effect, as {owner} is not set."


def _with_nearest(name: str) -> str:
    near = nearest_setting(name, 0.8)  # the prefix is alike anyway
    return f"{name} (the nearest setting is {near})" if near else name


def _names(each: Field[Any]) -> tuple[str, ...]:
    return (each.metadata["name"], *each.metadata["also"])
