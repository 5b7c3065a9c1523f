"""Handing a seccomp listener to the agent that the spec names (its ContainerProcessState)."""

from __future__ import annotations

import json
import os
import socket
import struct

from gantry.runtime import state
from gantry.runtime.errors import RuntimeFailure
from gantry.runtime.state import State


def forward(kept: State, listener: int, pid: int, status: str) -> None:
    """Send the listener's fd and who it is about to the socket at `listenerPath`.

    status: the container's. pid: the process that the filter is of, init or an exec'ed one.
    """
    path = kept.listener_path
    if not path:
        raise RuntimeFailure("seccomp: listenerPath is empty but a rule asks for SCMP_ACT_NOTIFY")
    # What the process holds open under which number it is found: its own pidfd is not ours
    # to know, so fds has the one name that the specification asks for.
    document = json.dumps(
        {
            "ociVersion": kept.oci_version,
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": kept.listener_metadata,
            "state": state.oci_state(kept, status, kept.init_pid or pid),
        }
    ).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(path)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", listener))]
            sent = sock.sendmsg([document], rights)
            if sent < len(document):  # an agent may hang up as soon as it has read all
                sock.sendall(document[sent:])
    except OSError as error:
        text = os.strerror(error.errno or 0).lower()
        raise RuntimeFailure(
            f"failed to connect with seccomp agent specified in the seccomp profile: {path}: {text}"
        )
