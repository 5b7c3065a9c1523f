"""linux.netDevices: devices of the caller's network that move into the container's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from gantry.kernel import syscalls
from gantry.kernel.rtlink import Links
from gantry.oci.runtime_spec import NetDevice
from gantry.runtime.errors import RuntimeFailure, describe

# The kernel's rule (dev_valid_name).
_NAME: Final = re.compile(r"(?!\.{1,2}$)[^/:\s]{1,15}")


def check(devices: Mapping[str, NetDevice], kinds: set[str]) -> None:
    """Whether they can be moved at all. Raises RuntimeFailure."""
    if devices and "network" not in kinds:
        raise RuntimeFailure("unable to move network devices without a NET namespace")
    if devices and os.geteuid() != 0:
        raise RuntimeFailure("network devices are not supported for rootless containers")
    for name, device in devices.items():
        for word in (name, device.name or name):
            if not _NAME.fullmatch(word):
                raise RuntimeFailure(f'linux.netDevices: invalid network device name "{word}"')


def move(devices: Mapping[str, NetDevice], pid: int) -> None:
    """Move each device to the network namespace of a process, with its lasting addresses,
    and bring it up there: the container may not have the right to.

    What the container leaves, the kernel gives back: a real device returns to the host's
    namespace under the name it has then, a virtual one is gone.
    """
    with ExitStack() as scope:
        own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        scope.callback(os.close, own)
        theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        scope.callback(os.close, theirs)
        here = scope.enter_context(Links())
        syscalls.setns(theirs, syscalls.CLONE_NEWNET)
        try:
            there = scope.enter_context(Links())
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
        for name, device in devices.items():
            try:
                _move_one(here, there, name, device.name or name, theirs)
            except OSError as error:
                raise RuntimeFailure(f'move netdevice "{name}": {describe(error)}')


def _move_one(here: Links, there: Links, name: str, new_name: str, namespace: int) -> None:
    index = here.index(name)
    addresses = here.addresses(index)
    here.set_up(index, up=False)
    here.move(index, new_name, namespace)
    moved = there.index(new_name)
    for address in addresses:
        there.add_address(moved, address)
    there.set_up(moved, up=True)
