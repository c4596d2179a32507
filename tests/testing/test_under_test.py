"""``scoring_runtime.testing``: scripts and models scored as the hosts do, without a server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.errors import ConfigurationError, EntryScriptFailed, StartError
from scoring_runtime.testing import UnderTest, scoring
from tests.conftest import WriteScript
from tests.models_for_tests import iris_estimator, saved

SCRIPT = """
import json
import logging
import os

from scoring_runtime import InputError
import beside

def init():
    global folder
    folder = os.environ["AZUREML_MODEL_DIR"]
    logging.getLogger("mine").warning("loaded")

def run(raw_data):
    data = json.loads(raw_data)
    if data == "wrong":
        raise InputError("it is wrong")
    if data == "boom":
        raise ValueError("boom")
    logging.getLogger("mine").warning("scored %s", data)
    return {"data": data, "beside": beside.NUMBER, "folder": os.path.basename(folder)}
"""


@pytest.fixture
def script(write_script: WriteScript, tmp_path: Path) -> Path:
    write_script("NUMBER = 3\n", "beside.py")
    (tmp_path / "model").mkdir()
    return write_script(SCRIPT)


def under(script: Path, **settings: Any) -> UnderTest:
    return scoring(script, model_dir=script.parent / "model", **settings)


# --- the three triggers ---------------------------------------------------------------------------


def test_an_input_has_the_same_bytes_by_every_trigger(script: Path) -> None:
    """The answer, the document, the reply; each where its client looks for it."""
    with under(script) as score:
        answer = score.http({"a": 1})
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        assert answer.json() == {"data": {"a": 1}, "beside": 3, "folder": "model"}
        blob = score.blob("x.json", {"a": 1})
        assert (blob.document, blob.is_error) == ("output/x_out.json", False)
        reply = score.message({"a": 1}, message_id="m7", properties={"x-f": "g", "y": 1}).reply
        assert reply is not None
        assert reply.body == blob.body == answer.body
        assert (reply.target, reply.correlation_id) == ("output", "m7")
        assert reply.properties == {
            "x-f": "g",
            "x-model-name": "model",
            "x-model-version": "1",
            "status": 200,
        }


def test_an_input_that_is_refused(script: Path) -> None:
    """400, an error document, an error reply and a dead letter with the reason."""
    with under(script) as score:
        answer = score.http('"wrong"')
        assert (answer.status, answer.json()) == (400, {"message": "it is wrong"})
        blob = score.blob("x.json", '"wrong"')
        assert (blob.document, blob.is_error) == ("output/x_error.json", True)
        assert blob.json() == {"message": "it is wrong"}
        message = score.message('"wrong"')
        assert message.settlement == "dead-letter" and message.reason == "InputError"
        assert message.description.startswith("it is wrong [")
        assert message.json() == {"message": "it is wrong"}


def test_an_input_on_which_run_fails_is_tried_again(script: Path) -> None:
    """500; a blob has no document; a message is delivered again, the last time dead-lettered."""
    with under(script) as score:
        assert score.http('"boom"').status == 500
        blob = score.blob("x.json", '"boom"')
        assert (blob.is_retried, blob.document, blob.body) == (True, "", b"")
        assert blob.reason == "RunFailed"
        assert score.message('"boom"').settlement == "abandon"
        last = score.message('"boom"', deliveries=4)
        assert last.settlement == "dead-letter" and last.reply is not None
        assert last.reply.properties["status"] == 500


def test_what_a_message_says_of_its_reply(script: Path) -> None:
    with under(script, SERVICEBUS_OUTPUT_QUEUE="") as score:
        assert score.message([1]).reply is None
        reply = score.message([1], reply_to="elsewhere", correlation_id="c").reply
        assert reply is not None and (reply.target, reply.correlation_id) == ("elsewhere", "c")
        refused = score.message([1], reply_to="input")
        assert refused.settlement == "dead-letter" and refused.reason == "UndecodableInput"


def test_names_of_blobs_and_sizes(script: Path) -> None:
    with under(script, BLOB_INPUT_PATH="asked/{name}.txt", BLOB_MAX_BYTES=10) as score:
        assert score.blob("a/b.txt", "[1]").document == "output/a/b_out.json"
        assert score.blob("c.txt", "[" + "1," * 9 + "1]").reason == "InputTooLarge"
        with pytest.raises(ValueError, match=r"'c\.json' is no input: BLOB_INPUT_PATH is 'asked/"):
            score.blob("c.json", "[1]")


def test_every_route_answers(script: Path) -> None:
    with under(script) as score:
        assert score.http(path="/health/ready", method="GET").json()["state"] == "Healthy"
        assert score.http(path="/swagger.json?version=3", method="GET").json()["openapi"] == "3.0.3"
        assert score.http(path="/nowhere", method="GET").status == 404


def test_a_model_without_a_script(tmp_path: Path) -> None:
    with scoring(model_dir=saved(tmp_path / "iris", iris_estimator())) as score:
        rows = [[5.1, 3.5, 1.4, 0.2]]
        assert score.http({"data": rows}).json() == [0]
        csv = score.http("5.1,3.5,1.4,0.2\n", content_type="text/csv", headers={"Accept": "*/*"})
        assert csv.status in (200, 400)
        given = score.message({"data": rows}, properties={"method": "predict_proba"})
        assert len(given.json()[0]) == 3
        blob = score.blob("x.json", {"data": rows}, metadata={"method": "predict_proba"})
        assert blob.json() == given.json()


def test_the_cache_of_the_settings_is_there(script: Path) -> None:
    with under(script, CACHE_URL="memory://") as score:
        states = [score.http({"a": 1}).headers["x-cache"] for _ in range(2)]
    assert states == ["miss", "hit"]


# --- starting and stopping ------------------------------------------------------------------------


def test_a_failing_init_is_told_with_the_diagnosis(write_script: WriteScript) -> None:
    script = write_script("def init():\n    1 / 0\ndef run(data): ...\n")
    with pytest.raises(EntryScriptFailed, match="Cause: ZeroDivisionError") as caught:
        scoring(script)
    assert f"Where: {script}:2 in init" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not [each for each in threading.enumerate() if each.name == "scoring"]


def test_an_init_that_does_not_return_is_given_up(write_script: WriteScript) -> None:
    script = write_script(
        "import threading\nends = threading.Event()\n"
        "def init():\n    ends.wait(60)\ndef run(data): ...\n"
    )
    with pytest.raises(StartError, match=r"not loaded after 0\.1 s"):
        scoring(script, start_seconds=0.1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SCORING_TIMEOUT": 5}, "There is no setting SCORING_TIMEOUT: did you mean SCORING_TIM"),
        ({"SCORING_NAN": "never"}, "SCORING_NAN has the value 'never'"),
        ({"BLOB_INPUT_PATH": "input"}, "BLOB_INPUT_PATH has the value 'input'"),
    ],
)
def test_a_wrong_setting_is_named(script: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        under(script, **settings)


def test_a_trigger_that_is_not_served_is_named(script: Path) -> None:
    with under(script, SCORING_TRIGGERS="http") as score:
        with pytest.raises(ConfigurationError, match=r"SCORING_TRIGGERS is http\."):
            score.message([1])
        assert score.http([1]).status == 200


def test_the_process_is_as_before(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables, the path, modules beside the script: two scripts may each have their own."""
    monkeypatch.setenv("AZUREML_MODEL_DIR", "/elsewhere")
    path, environ, threads = list(sys.path), dict(os.environ), threading.active_count()
    with under(script) as score:
        assert "beside" in sys.modules and os.environ["AZUREML_MODEL_DIR"] != "/elsewhere"
    score.stop()  # a second time is nothing
    assert (sys.path, dict(os.environ)) == (path, environ)
    assert "beside" not in sys.modules
    (script.parent / "beside.py").unlink()
    (script.parent / "beside").mkdir()
    (script.parent / "beside/__init__.py").write_text("from .inner import NUMBER\n")
    (script.parent / "beside/inner.py").write_text("NUMBER = 4444\n")
    with under(script) as score:
        assert "beside.inner" in sys.modules
        assert score.http([1]).json()["beside"] == 4444
    assert "beside.inner" not in sys.modules
    assert threading.active_count() <= threads + 2  # scoring threads may be ending


def test_modules_that_others_find_stay(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on a path that was there before, as an environment's in the script's own folder."""
    site = script.parent / ".venv/site-packages"
    site.mkdir(parents=True)
    (site / "of_the_environment.py").write_text("")
    script.write_text(f"import of_the_environment\n{SCRIPT}")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    monkeypatch.delitem(sys.modules, "entry_module", raising=False)  # of other tests
    with under(script):
        assert {"of_the_environment", "beside"} <= sys.modules.keys()
    assert "of_the_environment" in sys.modules and "beside" not in sys.modules
    monkeypatch.setattr(sys, "path", [*sys.path, str(script.parent)])
    under(script).stop()
    assert "beside" in sys.modules and "entry_module" not in sys.modules
    for name in ("of_the_environment", "beside"):
        del sys.modules[name]


def test_several_at_once(script: Path, tmp_path: Path) -> None:
    """Each has its own run()."""
    model = saved(tmp_path / "iris", iris_estimator())
    with under(script) as one, scoring(model_dir=model) as other, under(script) as third:
        assert other.http({"data": [[5.1, 3.5, 1.4, 0.2]]}).json() == [0]
        assert one.http([1]).body == third.http([1]).body


def test_threads_may_share_one(script: Path) -> None:
    with under(script, SCORING_CONCURRENCY=2) as score:
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda n=n: found.append(score.http([n]).json()["data"]))
            for n in range(8)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert sorted(found) == [[n] for n in range(8)]


def test_what_the_script_logs_is_seen(script: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), under(script) as score:
        score.http([5])
    assert [r.message for r in caplog.records if r.name == "mine"] == ["loaded", "scored [5]"]


@pytest.mark.anyio
async def test_within_a_running_loop(script: Path) -> None:
    """As of pytest-asyncio and anyio: calls wait for their outcome, also in threads of it."""
    with under(script) as score:
        assert score.http([1]).status == 200
        several = await asyncio.gather(*(asyncio.to_thread(score.http, [n]) for n in range(3)))
        assert [each.json()["data"] for each in several] == [[0], [1], [2]]


def test_bodies_as_they_are_and_as_json(script: Path) -> None:
    """Objects are sent as JSON, arrays of numpy too; text and bytes are not touched."""
    import numpy as np

    with under(script) as score:
        sent: list[Callable[[], Any]] = [
            lambda: score.http(b"[1.5]"),
            lambda: score.http("[1.5]"),
            lambda: score.http(np.array([1.5])),
            lambda: score.http([1.5], headers={"X-Id": "a"}),
        ]
        assert [each().json()["data"] for each in sent] == [[1.5]] * 4


def test_a_body_that_is_no_json_says_so(script: Path) -> None:
    with under(script, SERVICEBUS_OUTPUT_QUEUE="") as score, pytest.raises(json.JSONDecodeError):
        score.message([1]).json()
