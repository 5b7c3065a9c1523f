"""Handing a seccomp listener to the agent that the spec names (its ContainerProcessState)."""

from __future__ import annotations

import json
import os
import socket
import struct

from gantry.oci.runtime_spec import Seccomp
from gantry.runtime import state
from gantry.runtime.errors import RuntimeFailure
from gantry.runtime.state import State


def forward(profile: Seccomp, listener: int, kept: State, pid: int) -> None:
    """Send the listener's fd and who it is about to the socket at `listenerPath`."""
    if not profile.listener_path:
        raise RuntimeFailure("seccomp: listenerPath is empty but a rule asks for SCMP_ACT_NOTIFY")
    # What the process holds open under which number it is found: its own pidfd is not ours
    # to know, so fds has the one name that the specification asks for.
    document = json.dumps(
        {
            "ociVersion": kept.oci_version,
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": profile.listener_metadata,
            "state": state.oci_state(kept, "creating", pid),
        }
    ).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(profile.listener_path)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", listener))]
            sent = sock.sendmsg([document], rights)
            sock.sendall(document[sent:])
    except OSError as error:
        text = os.strerror(error.errno or 0).lower()
        raise RuntimeFailure(
            f"seccomp: unable to send the listener to {profile.listener_path}: {text}"
        )
