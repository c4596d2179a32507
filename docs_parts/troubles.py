"""Messages of the running program, their causes and what to do: provoked, not written down."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_RUNS = "def init():\n    pass\n\n\ndef run(raw_data):\n    return 1\n"
_SETTINGS = re.compile(
    "AZUREML|AML_|SCORING|SERVER|WORKER|BLOB|SERVICEBUS|REDIS|CACHE|.*Connection"
)


@dataclass(frozen=True)
class Trouble:
    """How a message comes about (files, settings, command), and what is to be said of it.

    ``line`` is a part of the line that is shown; "" is the last line.
    """

    group: str
    cause: str
    remedy: str
    script: str = _RUNS
    command: str = "score --entry-script score.py"
    body: str = "1"
    environ: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    line: str = ""


_START, _SETTING, _MODEL, _REQUEST = (
    "The script", "Settings and the command line", "The model", "A request",
)  # fmt: skip
TROUBLES = (
    Trouble(
        _START,
        "A package that the script imports is not installed here.",
        "Install it in the environment that runs `scoring-runtime`; for an image add it to "
        "`--requirements` ([Package](package.md#what-goes-in)).",
        script="import lightgbm_of_mine\n" + _RUNS,
    ),
    Trouble(
        _START,
        "The script was not found under that name.",
        "Paths are relative to the folder you are in, in an app to `AML_APP_ROOT`.",
        command="score --entry-script scorer.py",
    ),
    Trouble(
        _START,
        "The file has no function `init()`, or none at the top level.",
        "Add it; `def init(): pass` is enough.",
        script="def run(raw_data):\n    return 1\n",
    ),
    Trouble(
        _START,
        "`run()` has a parameter that is never given.",
        "Give it a default, or declare it with "
        "[`@input_schema`](score-py.md#typed-input-input_schema).",
        script="def init():\n    pass\n\n\ndef run(data, threshold):\n    return 1\n",
    ),
    Trouble(
        _START,
        "The script has a mistake that Python finds when it reads it.",
        "The line above names the place.",
        script="def init()\n    pass\n",
    ),
    Trouble(
        _START,
        "A model file is not where the script looks for it.",
        "The screen shows the tree of the model folder. "
        "[`model_path`](score-py.md#finding-the-model) finds files by name.",
        script='def init():\n    open("model/model.pkl")\n\n\ndef run(raw_data):\n    return 1\n',
    ),
    Trouble(
        _START,
        "`run()` returned something without a JSON form.",
        "Return numbers, text, lists, dicts, arrays or frames, or an `AMLResponse`: "
        "[What run() may return](score-py.md#what-run-may-return).",
        script="def init():\n    pass\n\n\ndef run(raw_data):\n    return {'model': object()}\n",
    ),
    Trouble(
        _SETTING,
        "A setting has a value that it cannot have.",
        "The message says what is allowed; `scoring-runtime settings` says where the value comes "
        "from.",
        environ={"SCORING_TIMEOUT_MS": "soon"},
    ),
    Trouble(
        _SETTING,
        "A connection string stands where the *name* of a setting is expected.",
        "Set `TriggerConnectionString`, and leave `BLOB_CONNECTION` out: "
        "[Azure connections](azure-connections.md).",
        environ={"BLOB_CONNECTION": "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=eA=="},
    ),
    Trouble(
        _SETTING,
        "A name in the environment looks like a setting and is none.",
        "Look for the right name in [Settings](settings.md). It is a warning, not an error.",
        command="settings",
        environ={"SCORING_TIMEOUT_SECONDS": "5"},
        line="SCORING_TIMEOUT_SECONDS",
    ),
    Trouble(
        _SETTING,
        "A cache in the process's memory cannot be shared by several processes.",
        "Use [Redis](cache.md#in-redis), or one worker.",
        command="serve --entry-script score.py --workers 2",
        environ={"CACHE_URL": "memory://"},
    ),
    Trouble(
        _SETTING,
        "`--model-dir` names a file.",
        "Name the folder that the file is in.",
        command="score --model-dir model.pkl",
        files={"model.pkl": "x"},
    ),
    Trouble(
        _SETTING,
        "`config.json` is not JSON.",
        "Mend it; it is a JSON object of [settings](settings.md).",
        files={"config.json": "{SCORING_TIMEOUT_MS: 5}"},
    ),
    Trouble(
        _MODEL,
        "There is no script and no model that scores without one.",
        "Name a script with `--entry-script`, or the folder of a model: "
        "[Which models](models.md#which-models).",
        command="score --model-dir model",
        files={"model/notes.txt": "x"},
    ),
    Trouble(
        _MODEL,
        "The file is not what its ending says, or is cut off.",
        "Copy it again; large files come as pointers when git-lfs is missing.",
        command="score --model-dir model",
        files={"model/model.onnx": "version https://git-lfs.github.com/spec/v1\n"},
    ),
    Trouble(
        _MODEL,
        "The pickle cannot be read.",
        "Copy it again, and install the library versions it was written with.",
        command="score --model-dir model",
        files={"model/model.pkl": "not a pickle"},
    ),
    Trouble(
        _REQUEST,
        "`run()` raised. A client gets this text with status 500; the log has the traceback.",
        "Look into the log by the request's id, or score that input alone: "
        "[One input, no server](start.md#one-input-no-server).",
        script="def init():\n    pass\n\n\ndef run(raw_data):\n    return 1 / 0\n",
        line="scoring script",
    ),
    Trouble(
        _REQUEST,
        "The body is not text.",
        "An undecorated `run()` gets text; for bytes use "
        "[`@rawhttp`](score-py.md#bytes-rawhttp).",
        body="\udcff",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Quoted:
    """A message that needs a service or a moment to come about: its text is that of the source.

    ``begins`` is a part of exactly one text there; what the program fills in is shown as ….
    """

    group: str
    begins: str
    cause: str
    remedy: str


_SERVING, _AZURE, _REDIS = "While it serves", "Azure", "Redis"
QUOTED = (
    Quoted(
        "Settings and the command line",
        "Cannot listen on",
        "Another program has the port, often a server that was not ended.",
        "Stop it, or choose another port.",
    ),
    Quoted(
        "Settings and the command line",
        "This trigger (SCORING_TRIGGERS) needs",
        "A connection is set, but the packages of that trigger are not installed.",
        "Install the extra that it names.",
    ),
    Quoted(
        "The model",
        "cannot be loaded: it needs the module",
        "The model's library is not installed.",
        "Install it as the message says.",
    ),
    Quoted(
        "A request",
        "Scoring timeout after",
        "`run()`, with its wait in the queue, took longer than `SCORING_TIMEOUT_MS`.",
        "Raise it, send less at once, or [do more at a time]"
        "(score-py.md#more-than-one-at-a-time).",
    ),
    Quoted(
        "A request",
        "The body is larger than … bytes (SCORING",
        "The body is too large.",
        "Raise the [limit](http.md#limits), or send less.",
    ),
    Quoted(
        _SERVING,
        "requests wait already",
        "More comes than is scored.",
        "Clients wait and come again (`Retry-After`); or start more workers.",
    ),
    Quoted(
        _SERVING,
        "The service is stopping",
        "SIGTERM came; what was in flight is still answered.",
        "Send the request to another instance.",
    ),
    Quoted(
        _SERVING,
        "The entry script could not be started; its log says why.",
        "`init()` failed.",
        "The log has the screen that this page is about.",
    ),
    Quoted(
        _SERVING,
        "The watched folders do not work",
        "A folder is missing, full or not writable.",
        "Make it writable for the user of the process; in the image that is 10001.",
    ),
    Quoted(
        _AZURE,
        "(BLOB_CONNECTION) cannot be reached",
        "The storage account is away, or its name is wrong.",
        "Look at the setting; it goes on by itself.",
    ),
    Quoted(
        _AZURE,
        "A container does not exist",
        "One of the containers is not there.",
        "Create it, or change the path; it goes on by itself.",
    ),
    Quoted(
        _AZURE,
        "The storage account refuses",
        "Key or rights are missing.",
        "[Roles](azure-connections.md#without-a-key).",
    ),
    Quoted(
        _AZURE,
        "Service Bus cannot be reached",
        "The namespace is away, its name is wrong, or port 5671 is closed.",
        "Look at the setting; `SERVICEBUS_TRANSPORT=websockets` uses port 443.",
    ),
    Quoted(
        _AZURE,
        "Service Bus refuses",
        "Key or rights are missing.",
        "[Roles](azure-connections.md#without-a-key).",
    ),
    Quoted(
        _AZURE,
        "requires sessions, which",
        "Queues with sessions are not received.",
        "Name one without.",
    ),
    Quoted(
        _AZURE,
        "asks for an identity, which needs",
        "An address is set without a key, and the package that signs in is missing.",
        "Install it.",
    ),
    Quoted(
        _AZURE,
        "The Functions host does not pass on a body",
        "The client sent the body in chunks.",
        "Have it send a Content-Length.",
    ),
    Quoted(
        _REDIS,
        "The cache does not answer in time",
        "Redis is away; only what needs it (an input by key) fails.",
        "Look at `CACHE_URL` or `REDIS_HOST`; scoring goes on without.",
    ),
    Quoted(
        _REDIS,
        "READONLY, a replica",
        "The address leads to a replica.",
        "Use the primary's.",
    ),
    Quoted(
        _REDIS,
        "MOVED, a node",
        "Redis is a cluster.",
        "Write `redis+cluster://`.",
    ),
    Quoted(
        _REDIS,
        "it refuses REDIS_PASSWORD",
        "Password or user is wrong.",
        "[Redis](cache.md#in-redis).",
    ),
)  # fmt: skip


def sources() -> set[str]:
    """Every text in the sources of the program; what it fills in is …."""
    found: set[str] = set()
    for path in (REPOSITORY / "scoring_runtime").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
                  for part in node.values}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", None) for part in node.values)
                found.add("".join(part if isinstance(part, str) else "…" for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set() if id(node) in inside else {node.value}
    return found


def quoted(trouble: Quoted, texts: set[str]) -> str:
    """The text of the source."""
    [found] = [each for each in texts if trouble.begins in each]
    return re.sub("…+", "…", found)


def message(trouble: Trouble) -> str:
    """What the program says of it, without the folder it was tried in."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"score.py": trouble.script, **trouble.files}.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not _SETTINGS.match(name)}
        done = subprocess.run(
            [sys.executable, "-m", "scoring_runtime", *trouble.command.split()],
            input=trouble.body.encode("utf-8", "surrogateescape"),
            cwd=folder,
            env={**kept, "PYTHONPATH": str(REPOSITORY), **trouble.environ},
            capture_output=True,
            timeout=120,
        )
        real = str(Path(folder).resolve())
    lines = [
        line for line in done.stderr.decode().splitlines() if line.strip() and trouble.line in line
    ]
    said = lines[-1] if lines else f"nothing ({done.stdout!r})"
    return said.replace(f"{real}/", "").replace(real, ".")


def markdown() -> str:
    """A table for each group: message, cause, what to do."""
    texts = sources()
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(message, TROUBLES))
    rows: list[tuple[Trouble | Quoted, str]] = list(zip(TROUBLES, said, strict=True))
    rows += [(each, quoted(each, texts)) for each in QUOTED]
    groups: dict[str, list[str]] = {}
    for each, text in rows:
        cell = text.replace("|", "\\|").replace("`", "'")
        row = f"| `{cell}` | {each.cause} | {each.remedy} |"
        groups.setdefault(each.group, []).append(row)
    head = ["| message | cause | what to do |", "| --- | --- | --- |"]
    parts = ["\n".join([f"## {name}", "", *head, *lines]) for name, lines in groups.items()]
    return "\n\n".join(parts)
