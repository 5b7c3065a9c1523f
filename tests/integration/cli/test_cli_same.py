"""Side by side with the docker client: the same words in, the same text and code out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.support.cli import Cli, Done
from tests.support.engine import Engine
from tests.support.wait import eventually

VERSION = {"DOCKER_API_VERSION": "1.41"}
"""One that both clients and both engines know: answers differ between versions."""


@pytest.fixture
def docker(engine: Engine) -> Cli:
    """The newest docker client there is."""
    return replace(engine.cli(), environment=VERSION)


@pytest.fixture
def web(cli: Cli) -> Iterator[str]:
    """A container that has said something and goes on."""
    words = ["-d", "--name", "web", "-l", "a=1", "-l", "b.c=2", "-v", "/data"]
    program = "echo out; echo err >&2; exec sleep 600"
    cli("run", *words, "busybox", "sh", "-c", program).ok()
    eventually(lambda: "err" in cli("logs", "web").err)
    yield "web"
    cli("rm", "-fv", "web").ok()


SAME = [
    "ps",
    "ps -aq --no-trunc",
    "ps --format {{.Names}}|{{.Image}}|{{.Command}}|{{.Labels}}|{{.Mounts}}|{{.Networks}}",
    'ps --format table\\t{{.Names}}\\t{{.Label\\s"b.c"}}',
    "ps -f name=web -f status=running -q",
    "ps -f nonsense",
    "ps --nonsense",
    "ps -n x",
    "images",
    "images -q --no-trunc",
    "images --format {{.Repository}}:{{.Tag}}@{{.ID}}",
    "images nosuch",
    "inspect web",
    "inspect -f {{.State.Pid}}|{{json\\s.Config.Labels}}|{{.HostConfig.NetworkMode}} web",
    "inspect -f {{range\\s.Mounts}}{{.Destination}}{{end}} web",
    "inspect -f {{.Nope}} web",
    "inspect nosuch",
    "inspect web nosuch",
    "container inspect nosuch",
    "image inspect busybox",
    "history --no-trunc busybox",
    "logs web",
    "logs -t web",
    "logs --tail 1 web",
    "logs nosuch",
    "top web",
    "top web -o pid,args",
    "network ls",
    "network inspect none",
    "volume ls -q",
    "exec web sh -c exit\\s7",
    "exec web nosuch",
    "exec nosuch ls",
    "stop nosuch",
    "start nosuch",
    "rm web",
    "rm nosuch",
    "rm -f nosuch",
    "rmi nosuch",
    "rmi busybox",
    "run",
    "run --name",
    "run --rm busybox sh -c exit\\s42",
    "run --rm -m 1 busybox true",
    "run --rm -p 99999999:1 busybox",
    "run --rm --pull nonsense busybox",
    "run --rm -it busybox true",
    "create --name web busybox",
    "tag nosuch x",
    "save nosuch",
    "cp web:/nosuch /tmp/x",
    "cp a b",
    "network rm nosuch",
    "volume rm nosuch",
    "frob",
    "container frob",
]


def plain(done: Done) -> tuple[int, str, str]:
    """What is compared: without the program's name, ages and one client's prefixes."""

    def cleaned(text: str) -> str:
        text = text.replace("docker", "gantry").replace("Error: No such", "No such")
        text = re.sub(r"^(Error: |exit status \d+\n)", "", text, flags=re.M)
        text = re.sub(
            r"(Less than a second|About a minute|\d+ (second|minute)s?)( ago)?", "AGE", text
        )
        text = re.sub(r"^(See|Run) ", "", text, flags=re.M)
        return re.sub(r" {2,}", "  ", text)

    return done.code, cleaned(done.out.lstrip("\n")), cleaned(done.err)


@pytest.mark.parametrize("line", SAME)
def test_same(line: str, cli: Cli, docker: Cli, web: str) -> None:
    del web
    words = [word.replace("\\s", " ") for word in line.split(" ")]
    cli = replace(cli, environment=VERSION)
    assert plain(cli(*words)) == plain(docker(*words))


def test_json_rows_have_docker_s_fields(cli: Cli, docker: Cli, web: str) -> None:
    import json

    del web
    cli = replace(cli, environment=VERSION)
    for words in (("ps", "--format", "json"), ("images", "--format", "json")):
        ours = json.loads(cli(*words).ok().splitlines()[0])
        theirs = json.loads(docker(*words).ok().splitlines()[0])
        ages = ("RunningFor", "CreatedSince", "Status", "VirtualSize")
        assert theirs.keys() <= ours.keys()
        for key in theirs:
            assert key in ages or ours[key] == theirs[key]
