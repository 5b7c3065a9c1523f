"""linux.seccomp: actions, conditions, flags, the notify listener."""

from __future__ import annotations

import array
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime

X86 = platform.machine() == "x86_64"


def profile(bundle: Bundle, *rules: dict[str, object], default: str = "SCMP_ACT_ALLOW") -> Bundle:
    bundle.part("linux")["seccomp"] = {"defaultAction": default, "syscalls": list(rules)}
    return bundle


def rule(action: str, *names: str, **more: object) -> dict[str, object]:
    return {"names": list(names), "action": action, **more}


@pytest.mark.parametrize("nnp", [True, False])
def test_errno(runtime: Runtime, bundle: Bundle, nnp: bool) -> None:
    bundle.part("process")["noNewPrivileges"] = nnp
    profile(bundle, rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat"))
    bundle.sh("grep Seccomp: /proc/self/status; mkdir /x")
    result = runtime.run(bundle)
    assert result.out.split() == ["Seccomp:", "2"]
    assert "Operation not permitted" in result.err


def test_errno_of_choice(runtime: Runtime, bundle: Bundle) -> None:
    profile(bundle, rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat", errnoRet=28))
    assert "No space left on device" in runtime.run(bundle.args("mkdir", "/x")).err


def test_kill(runtime: Runtime, bundle: Bundle) -> None:
    profile(bundle, rule("SCMP_ACT_KILL", "mkdir", "mkdirat"))
    assert runtime.ok(bundle.sh("mkdir /x; echo $?")).strip() == "159"  # 128 + SIGSYS


def test_conditions_on_arguments(runtime: Runtime, bundle: Bundle) -> None:
    # umask(2) with exactly 0077 fails, with anything else it works.
    arg = {"index": 1, "value": 0o700, "op": "SCMP_CMP_EQ"}
    profile(
        bundle,
        rule("SCMP_ACT_ERRNO", "chmod", args=[arg], errnoRet=28),
        rule("SCMP_ACT_ERRNO", "fchmodat", args=[{**arg, "index": 2}], errnoRet=28),
    )
    result = runtime.run(bundle.sh("chmod 755 /tmp && echo fine; chmod 700 /tmp"))
    assert result.out == "fine\n"
    assert "No space left on device" in result.err


def test_the_same_argument_twice_means_or(runtime: Runtime, bundle: Bundle) -> None:
    args = [{"index": 1, "value": mode, "op": "SCMP_CMP_EQ"} for mode in (0o700, 0o711)]
    second = [{**arg, "index": 2} for arg in args]
    profile(
        bundle,
        rule("SCMP_ACT_ERRNO", "chmod", args=args),
        rule("SCMP_ACT_ERRNO", "fchmodat", args=second),
    )
    bundle.sh("for m in 700 711 755; do chmod $m /tmp 2>/dev/null && echo $m; done")
    assert runtime.run(bundle).out == "755\n"


def test_unknown_names_are_passed_over(runtime: Runtime, bundle: Bundle) -> None:
    profile(bundle, rule("SCMP_ACT_ERRNO", "nonesuch_call", "mkdir", "mkdirat"))
    assert "not permitted" in runtime.run(bundle.args("mkdir", "/x")).err


def test_calls_newer_than_the_profile_do_not_exist(runtime: Runtime, bundle: Bundle) -> None:
    """An allow-list with EPERM answers ENOSYS for numbers above all that it names."""
    if not X86:
        pytest.skip("numbers of x86_64")
    names = _all_names()
    profile(bundle, rule("SCMP_ACT_ALLOW", *names), default="SCMP_ACT_ERRNO")
    bundle.part("linux", "seccomp")["architectures"] = ["SCMP_ARCH_X86_64"]
    program = bundle.rootfs / "bin/probe"
    _compile(program, "#include <sys/syscall.h>\n#include <unistd.h>\n#include <errno.h>\n"
             "int main(){syscall(999);return errno;}")  # fmt: skip
    assert runtime.run(bundle.args("probe")).code == 38


def _all_names() -> list[str]:
    text = subprocess.run(
        ["sh", "-c", "echo '#include <sys/syscall.h>' | gcc -dM -E -"],
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    return [line.split()[1].removeprefix("SYS_") for line in text.splitlines() if " SYS_" in line]


def _compile(target: Path, source: str) -> None:
    done = subprocess.run(
        ["gcc", "-static", "-x", "c", "-o", str(target), "-"], input=source, text=True,
        capture_output=True,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("needs gcc")


@pytest.mark.parametrize(
    ("seccomp", "text"),
    [
        ({"defaultAction": "SCMP_ACT_NONESUCH"}, "SCMP_ACT_NONESUCH"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}, "PDP11"),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {
                        "names": ["mkdir"],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_NONE"}],
                    }
                ],
            },
            "SCMP_CMP_NONE",
        ),
    ],
)
def test_bad_profiles(
    runtime: Runtime, bundle: Bundle, seccomp: dict[str, object], text: str
) -> None:
    bundle.part("linux")["seccomp"] = seccomp
    result = runtime.run(bundle)
    assert result.code == 1
    assert text in result.err


AGENT = """
import array, fcntl, os, socket, struct, sys
server = socket.socket(fileno=int(sys.argv[1]))
conn, _ = server.accept()
data, anc, _, _ = conn.recvmsg(65536, socket.CMSG_SPACE(4))
fd = array.array("i", anc[0][2])[0]
sys.stdout.write(data.decode()); sys.stdout.flush()
buffer = bytearray(80)
fcntl.ioctl(fd, 0xC0502100, buffer)
cookie, pid, flags, number = struct.unpack_from("QIIi", buffer)
fcntl.ioctl(fd, 0xC0182101, bytearray(struct.pack("Qqii", cookie, 0, -95, 0)))
"""


def test_notify(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """A call is answered by an agent outside; it learns whom it is about."""
    path = f"/tmp/gantry-notify-{os.getpid()}.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    try:
        profile(bundle, rule("SCMP_ACT_NOTIFY", "mkdir", "mkdirat"))
        seccomp = bundle.part("linux", "seccomp")
        seccomp["listenerPath"] = path
        seccomp["listenerMetadata"] = "about it"
        agent = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(server.fileno())],
            stdout=subprocess.PIPE,
            pass_fds=[server.fileno()],
        )
        result = runtime.run(bundle.args("mkdir", "/x"))
        out, _ = agent.communicate(timeout=10)
    finally:
        server.close()
        os.unlink(path)
    assert "Operation not supported" in result.err or "Not supported" in result.err
    document = json.loads(out)
    assert document["metadata"] == "about it"
    assert document["fds"] == ["seccompFd"]
    assert document["pid"] > 0
    assert document["state"]["status"] in ("creating", "created")
    assert array.array("i").itemsize == 4


def test_notify_of_an_exec(runtime: Runtime, bundle: Bundle) -> None:
    """An exec'ed process has its own listener, and the agent learns of the container."""
    path = f"/tmp/gantry-notify-exec-{os.getpid()}.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    agents = []
    try:
        profile(bundle, rule("SCMP_ACT_NOTIFY", "mkdir", "mkdirat"))
        bundle.part("linux", "seccomp")["listenerPath"] = path

        def agent() -> None:
            command = [sys.executable, "-c", AGENT, str(server.fileno())]
            agents.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[server.fileno()])
            )

        agent()  # for init, which makes no folder
        name = runtime.detached(bundle.args("sleep", "1000"))
        agent()
        result = runtime("exec", name, "mkdir", "/x")
        out, _ = agents[1].communicate(timeout=10)
    finally:
        server.close()
        os.unlink(path)
        for one in agents:
            one.kill()
            one.wait()
    assert result.code != 0
    assert "not supported" in result.err.lower()
    document = json.loads(out)
    assert document["state"]["id"] == name
    assert document["state"]["status"] == "running"
    assert document["pid"] != document["state"]["pid"] == runtime.pid(name)


def test_an_agent_that_is_not_there(runtime: Runtime, bundle: Bundle) -> None:
    profile(bundle, rule("SCMP_ACT_NOTIFY", "mkdir"))
    bundle.part("linux", "seccomp")["listenerPath"] = "/no/such/agent.sock"
    result = runtime.run(bundle)
    assert result.code == 1
    assert "failed to connect with seccomp agent" in result.err


def test_a_filter_that_forbids_what_the_runtime_asks(runtime: Runtime, bundle: Bundle) -> None:
    """Without no_new_privs the filter stands before the user is changed."""
    if runtime.name == "runc":
        pytest.skip("runc asks for its working directory behind the filter")
    bundle.part("process")["noNewPrivileges"] = False
    profile(bundle, rule("SCMP_ACT_ERRNO", "getcwd", "faccessat2", "chdir"))
    assert runtime.ok(bundle.args("echo", "ran")) == "ran\n"


def test_start_container_hooks_have_the_filter(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 does not tell")
    profile(bundle, rule("SCMP_ACT_KILL", "mkdir", "mkdirat"))
    bundle.part("hooks")["startContainer"] = [
        {"path": "/bin/sh", "args": ["sh", "-c", "mkdir /x"], "env": ["PATH=/bin"]}
    ]
    result = runtime.run(bundle)
    assert result.code == 1
    assert "startContainer hook #0" in result.err
    assert not (bundle.rootfs / "x").exists()
