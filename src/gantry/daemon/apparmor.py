"""AppArmor: the profile that containers have where the kernel enforces any.

It is a second wall behind the read-only and masked paths: with it, nothing below /proc and /sys
but a process's own entries and its cgroups can be written, and nothing mounted, whatever
capability a container was given. The name is Docker's: on a machine with both engines, both
mean a profile that says the same, and who comes first has loaded it.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from typing import Final

_log = logging.getLogger(__name__)

PROFILE: Final = "docker-default"
_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
_ABI: Final = "/etc/apparmor.d/abi/3.0"
"""Since 4.0 "network" no longer means unix sockets unless this older language is asked for."""

_RULES: Final = """\
profile docker-default flags=(attach_disconnected, mediate_deleted) {
  capability,
  file,
  network,
  deny network alg,
  umount,
  deny mount,

  # The engine and its shims are unconfined; a container's processes are among themselves.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=docker-default,
  ptrace (trace, tracedby, read, readby) peer=docker-default,

  # /proc: what belongs to a process (a number, self, thread-self), and of sys only kernel/shm*.
  deny /proc/* w,
  deny /proc/[^0-9st]*/** w,
  deny /proc/s[^ey]*/** w,
  deny /proc/t[^h]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # /sys: only fs/cgroup.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
"""


def default_profile(root: str = "") -> str:
    """Its name, loaded where it is not yet; "" where the kernel has no AppArmor, or where no
    profile can be loaded (said in the log). root: of /proc and /sys (tests). Blocks.
    """
    try:
        with open(f"{root}/sys/module/apparmor/parameters/enabled", encoding="ascii") as file:
            if file.read(1) != "Y":
                return ""
        with open(f"{root}/sys/kernel/security/apparmor/profiles", encoding="utf-8") as file:
            loaded = {line.partition(" (")[0] for line in file}
    except OSError:
        return ""  # no such kernel, or a container that may not see
    if PROFILE not in loaded:
        try:
            load()
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("containers run without AppArmor: cannot load %s: %s", PROFILE, error)
            return ""
    return PROFILE


def text() -> str:
    """The profile, in AppArmor's language."""
    return (f"abi <{_ABI.removeprefix('/etc/apparmor.d/')}>,\n" if os.path.exists(_ABI) else "") + (
        _RULES
    )


def load(*options: str) -> None:
    """Give the profile to the kernel. OSError, SubprocessError."""
    parser = shutil.which("apparmor_parser", path=_PATH)
    if parser is None:
        raise FileNotFoundError("there is no apparmor_parser")
    words = [parser, "--replace", "--skip-cache", *options]
    done = subprocess.run(words, input=text(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise subprocess.SubprocessError(done.stderr.strip() or f"status {done.returncode}")
