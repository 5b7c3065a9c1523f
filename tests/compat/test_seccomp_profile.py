"""The default seccomp profile against the one that Debian's dockerd gives its containers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import Engine

from gantry.containers.spec import capabilities, seccomp

# dockerd 20.10 knows fewer calls; and what later versions of Docker took away again.
TAKEN_AWAY = {"io_uring_enter", "io_uring_register", "io_uring_setup"}


def allowed(profile: dict[str, Any]) -> set[tuple[str, str]]:
    """(call, its argument checks) of all rules that allow."""
    found = set()
    for rule in profile["syscalls"]:
        if rule["action"] == "SCMP_ACT_ALLOW":
            checks = [
                (a["index"], a["value"], a.get("valueTwo", 0), a["op"])
                for a in rule.get("args") or []
            ]
            found |= {(name, json.dumps(checks)) for name in rule["names"]}
    return found


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    with Engine("dockerd") as engine:
        engine.add_image()
        with engine.api() as api:
            body = {"Image": "busybox", "Cmd": ["sleep", "600"]}
            name = api.post("/containers/create", body=body).expect(201).text("Id")  # type: ignore[arg-type]  # plain JSON
            api.post(f"/containers/{name}/start").expect(204)
        found = [*Path(engine.exec_root).rglob(f"{name}/config.json")]
        assert found, "dockerd's bundle is not where it used to be"
        spec: dict[str, Any] = json.loads(found[0].read_text())
        return spec


def test_the_allow_list(theirs: dict[str, Any]) -> None:
    ours = json.loads(bytes(seccomp.default(capabilities.DEFAULT)))
    profile = theirs["linux"]["seccomp"]
    assert ours["defaultAction"] == profile["defaultAction"]
    assert set(ours["architectures"]) == set(profile["architectures"])
    missing = {name for name, _ in allowed(profile) - allowed(ours)} - TAKEN_AWAY
    # later: AF_VSOCK (40) is refused, so socket is allowed with conditions
    assert missing - {"socket"} == set()
    newer = {name for name, _ in allowed(ours)} - {name for name, _ in allowed(profile)}
    dangerous = {"mount", "umount2", "setns", "unshare", "bpf", "keyctl", "add_key", "kexec_load"}
    assert not newer & (dangerous | {"init_module", "reboot", "swapon", "userfaultfd", "quotactl"})


def test_capabilities_and_paths(theirs: dict[str, Any]) -> None:
    assert set(theirs["process"]["capabilities"]["bounding"]) == set(capabilities.DEFAULT)
    from gantry.containers import merge

    assert set(theirs["linux"]["maskedPaths"]) <= set(merge.MASKED)
    assert set(theirs["linux"]["readonlyPaths"]) == set(merge.READ_ONLY)
