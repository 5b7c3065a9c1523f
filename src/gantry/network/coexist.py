"""Living beside other firewalls.

A real dockerd sets the policy of iptables' FORWARD chain to DROP, which drops our
containers' packets too: what one table accepts, another may still drop. So, and only
then, accept rules for our bridges are put at the head of that chain (of DOCKER-USER,
which dockerd never flushes, where there is one).

This is for a backend whose own rules are elsewhere. In iptables these would come before all
that keeps networks apart: the iptables backend takes them away.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Sequence

from gantry.network.nftables import Elements

_log = logging.getLogger(__name__)

_COMMENT = "gantry"
MARK = f"-m comment --comment {_COMMENT} -j ACCEPT"
"""How our rules end, as iptables shows them."""


def allow(bridge: str) -> None:
    """Let packets of `bridge` pass iptables' FORWARD chain, if its policy drops them.

    Blocks for some milliseconds. Nothing happens without iptables.
    """
    for command, family in (("iptables", "ip"), ("ip6tables", "ip6")):
        if not _may_drop(family) or shutil.which(command) is None:
            continue
        said = _run(command, "-S", "FORWARD")
        if "-P FORWARD DROP" not in said and "-P FORWARD REJECT" not in said:
            continue
        chain = "DOCKER-USER" if "-j DOCKER-USER" in said else "FORWARD"
        for side in ("-i", "-o"):
            rule = (side, bridge, "-m", "comment", "--comment", _COMMENT, "-j", "ACCEPT")
            if not _succeeds(command, "-C", chain, *rule):
                _run(command, "-I", chain, *rule)


class Keeper:
    """Looks, cheaply and again and again, whether another firewall now drops our packets."""

    def __init__(self) -> None:
        self._generation = -1
        self._elements: Elements | None = None

    def look(self, bridges: Sequence[str]) -> None:
        """A question to the kernel; if anything changed since the last one, `allow` for
        each bridge."""
        if self._elements is None:
            self._elements = Elements("filter", "ip")
        generation = self._elements.generation()
        if generation == self._generation and not _legacy("ip"):
            return
        self._generation = generation
        for bridge in bridges:
            allow(bridge)
        self._generation = self._elements.generation()

    def close(self) -> None:
        if self._elements is not None:
            self._elements.close()


def _legacy(family: str) -> bool:
    try:
        with open(f"/proc/net/{family}_tables_names") as file:
            return "filter" in file.read()
    except OSError:
        return False


def _may_drop(family: str) -> bool:
    """Whether asking iptables is worth two processes: the nft kind's policy is a question
    to the kernel, the legacy kind's tables are named in /proc."""
    if _legacy(family):
        return True
    elements = Elements("filter", family)
    try:
        return elements.policy_drops(family, "filter", "FORWARD")
    finally:
        elements.close()


def forget(bridge: str) -> None:
    """Take the rules of `allow` away again, if there may be any. Blocks like it."""
    for command, family in (("iptables", "ip"), ("ip6tables", "ip6")):
        if not _may_drop(family) or shutil.which(command) is None:
            continue
        for chain in ("DOCKER-USER", "FORWARD"):
            for side in ("-i", "-o"):
                rule = (side, bridge, "-m", "comment", "--comment", _COMMENT, "-j", "ACCEPT")
                while _succeeds(command, "-D", chain, *rule):
                    pass


def _run(*command: str) -> str:
    done = subprocess.run(
        (command[0], "-w", *command[1:]), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        _log.warning("%s: %s", " ".join(command), done.stderr.strip())
    return done.stdout


def _succeeds(*command: str) -> bool:
    done = subprocess.run((command[0], "-w", *command[1:]), capture_output=True, check=False)
    return done.returncode == 0
