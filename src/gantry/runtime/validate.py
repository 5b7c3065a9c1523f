"""What a spec's values have to make together; types and ranges are the decoder's."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Final

from gantry.mounts.options import parse
from gantry.oci import runtime_spec as oci
from gantry.runtime import schedule
from gantry.runtime.errors import RuntimeFailure

_IPC_SYSCTLS: Final = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni",
                 "shm_rmid_forced")
)  # fmt: skip
# In a name in dots, these would be "", "." and ".." of the path: no way to other sysctls.
_NOT_PARTS: Final = frozenset(("", "/", "//"))


def spec(config: oci.Spec, given: Collection[str] = ()) -> None:
    """Raise RuntimeFailure, one line that names the field, for what cannot be run.

    given: namespace types that the caller brings as fds.
    """
    if not _supported(config.oci_version):
        raise RuntimeFailure(f'ociVersion: unsupported version "{config.oci_version}"')
    if config.root is None:
        raise RuntimeFailure("root: is required")
    if not config.root.path:
        raise RuntimeFailure("root.path: must not be empty")
    if config.process is None:
        raise RuntimeFailure("process property must not be empty")
    for index, mount in enumerate(config.mounts):
        _mount(index, mount)
    linux = config.linux or oci.Linux()
    schedule.check(config.process, linux)
    _linux(config, linux, given)


def _supported(version: str) -> bool:
    """Whether it is 1.x.y, with a pre-release or build behind it or without (semver)."""
    version, plus, build = version.partition("+")
    version, dash, pre_release = version.partition("-")
    numbers = version.split(".")
    return (
        len(numbers) == 3
        and numbers[0] == "1"
        and version.isascii()
        and all(word.isdigit() and len(word) < 10 for word in numbers)
        and bool(pre_release) == bool(dash)
        and bool(build) == bool(plus)
        and all(c.isascii() and (c.isalnum() or c in ".-") for c in pre_release + build)
    )


def _mount(index: int, mount: oci.Mount) -> None:
    if not mount.destination:
        raise RuntimeFailure(f"mounts[{index}].destination: must not be empty")
    options = parse(mount.options)
    is_bind = mount.type == "bind" or options.bind
    if is_bind and not mount.source:
        raise RuntimeFailure(f"mounts[{index}].source: a bind mount needs a source")
    if is_bind and options.data:
        raise RuntimeFailure(
            f"mounts[{index}].options: "
            "bind mounts cannot have any filesystem-specific options applied"
        )
    if not is_bind and not mount.type and not options.remount:
        raise RuntimeFailure(f"mounts[{index}].type: must not be empty")
    if (mount.uid_mappings or mount.gid_mappings or options.idmap) and not is_bind:
        raise RuntimeFailure(
            f"mounts[{index}]: id-mapped mounts are only supported for bind-mounts"
        )
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        raise RuntimeFailure(
            f"mounts[{index}]: id-mapped mounts must have both uid and gid mappings specified"
        )


def _linux(config: oci.Spec, linux: oci.Linux, given: Collection[str]) -> None:
    kinds = {namespace.type for namespace in linux.namespaces} | set(given)
    if config.hostname and "uts" not in kinds:
        raise RuntimeFailure("unable to set hostname without a private UTS namespace")
    if config.domainname and "uts" not in kinds:
        raise RuntimeFailure("unable to set domainname without a private UTS namespace")
    if (linux.masked_paths or linux.readonly_paths) and "mount" not in kinds:
        raise RuntimeFailure("unable to restrict sys entries without a private MNT namespace")
    if linux.intel_rdt is not None:
        raise RuntimeFailure("intelRdt is specified in config, but Intel RDT is not enabled")
    if linux.net_devices:
        from gantry.runtime import netdevices

        netdevices.check(linux.net_devices, kinds)
    _user(linux, kinds)
    _time(linux, kinds)
    if linux.sysctl:
        _sysctls(linux, kinds, given)


def _user(linux: oci.Linux, kinds: set[str]) -> None:
    mapped = bool(linux.uid_mappings or linux.gid_mappings)
    if "user" not in kinds:
        if mapped:
            raise RuntimeFailure(
                "user namespace mappings specified, but user namespace isn't enabled in the config"
            )
        return
    path = next((n.path for n in linux.namespaces if n.type == "user"), "")
    if path and mapped:
        raise RuntimeFailure(
            "user namespace path and mappings specified -- you may only provide one"
        )
    if not path and not (linux.uid_mappings and linux.gid_mappings):
        raise RuntimeFailure(
            "user namespaces enabled, but no uid or gid mappings found: "
            "no namespace path to join nor mappings to apply specified"
        )


def _time(linux: oci.Linux, kinds: set[str]) -> None:
    if "time" not in kinds:
        if linux.time_offsets:
            raise RuntimeFailure(
                "time namespace offsets specified, but time namespace isn't enabled in the config"
            )
        return
    path = next((n.path for n in linux.namespaces if n.type == "time"), "")
    if path and linux.time_offsets:
        raise RuntimeFailure(
            "time namespace enabled, but both namespace path and time offsets specified"
            " -- you may only provide one"
        )
    for clock in linux.time_offsets:
        if clock not in ("monotonic", "boottime"):
            raise RuntimeFailure(f"linux.timeOffsets: unknown clock {clock!r}".replace("'", '"'))


def _dotted(name: str) -> str:
    """A sysctl in dots: net/ipv4/conf/eth0.1/x is net.ipv4.conf.eth0/1.x (sysctl(8))."""
    dot, slash = name.find("."), name.find("/")
    if slash < 0 or 0 <= dot < slash:
        return name
    return name.translate(str.maketrans("./", "/."))


def _sysctls(linux: oci.Linux, kinds: set[str], given: Collection[str]) -> None:
    """Only what belongs to a namespace of the container's own may be set (runc's list)."""
    for raw in linux.sysctl:
        name = _dotted(raw)
        if not _NOT_PARTS.isdisjoint(name.split(".")):
            raise RuntimeFailure(f'sysctl "{raw}" is not a name')
        if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if "ipc" not in kinds:
                raise RuntimeFailure(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
        elif name.startswith("net."):
            if _host_network(linux, kinds, given):
                raise RuntimeFailure(f'sysctl "{name}" not allowed in host network namespace')
        elif name == "kernel.domainname" and "uts" in kinds:
            continue
        elif name == "kernel.hostname" and "uts" in kinds:
            raise RuntimeFailure(
                f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field'
            )
        elif name.startswith("user."):
            if "user" not in kinds:
                raise RuntimeFailure(
                    f"setting ucounts without a user namespace not allowed: {name}"
                )
        else:
            raise RuntimeFailure(f'sysctl "{name}" is not in a separate kernel namespace')


def _host_network(linux: oci.Linux, kinds: set[str], given: Collection[str]) -> bool:
    if "network" not in kinds:
        return True
    path = next((n.path for n in linux.namespaces if n.type == "network"), "")
    if "network" in given or not path:
        return False
    try:
        theirs, ours = os.stat(path), os.stat("/proc/self/ns/net")
    except OSError as error:
        raise RuntimeFailure(f"invalid netns path: {os.strerror(error.errno or 0).lower()}")
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
