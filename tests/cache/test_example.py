"""examples/redis-cache as its README tells a user to run it, on a Redis server with TLS."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.hosts.redis import RedisServerWithTls
from tests.hosts.standalone import StandaloneHost, clean_environ

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "redis-cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    command = [sys.executable, "examples/diabetes/train.py", "--output", str(tmp_path / "model")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=clean_environ())
    return tmp_path / "model"


def test_the_script_scores_what_redis_holds(model: Path, tmp_path: Path) -> None:
    """TLS, port, password and the data are the script's own business; nothing is kept by ours."""
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"redis-cli .* --tls .* (set \S+ '.*')\n", readme)
    shown = json.loads(re.findall(r"```json\n(.*?)```", readme, re.DOTALL)[0])
    with RedisServerWithTls(tmp_path, password="secret") as server:
        with server.client() as client:
            for command in commands:
                _, key, value = command.split(" ", 2)
                client.set(key, value.strip("'"))
        environ = {
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(server.port),
            "REDIS_KEY": "secret",
            "CACHE_TTL_SECONDS": "0",
            "SSL_CERT_FILE": str(server.ca),
        }
        options = ("--model-dir", str(model))
        with StandaloneHost(EXAMPLE / "score.py", *options, environ=environ, cwd=ROOT) as host:
            body = (EXAMPLE / "sample_input.json").read_bytes()
            answers = [httpx.post(f"{host.url}/score", content=body) for _ in range(2)]
            missing = httpx.post(f"{host.url}/score", content=b'{"keys": ["patient:3"]}')
    assert [answer.json() for answer in answers] == [pytest.approx(shown)] * 2
    assert [answer.headers["x-cache"] for answer in answers] == ["bypass"] * 2
    assert missing.json() == {"error": "not in Redis: patient:3"}
