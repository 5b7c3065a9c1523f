"""From what the user wrote about mounts to `MountRecord`s (moby daemon/volume/mounts).

Four notations: Binds ("/host:/path:ro", "volume:/path"), HostConfig.Mounts, Tmpfs, and
volumes that the image or the config names. The parsers judge the text alone; whether a
source is there is asked at the end, where Docker asks it.
"""

from __future__ import annotations

import os
import posixpath
from typing import Final

from msgspec.structs import replace

from gantry.containers.record import MountRecord
from gantry.model.container import HostConfig, MountSpec, TmpfsOptions
from gantry.model.errors import InvalidParameter

PROPAGATIONS: Final = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_MODES: Final = (
    frozenset(("rw", "ro")),
    frozenset(("z", "Z")),
    frozenset(PROPAGATIONS),
    frozenset(("nocopy",)),
    frozenset(("consistent", "cached", "delegated", "default")),
)
_TMPFS_WORDS: Final = frozenset(
    (
        *("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "sync", "async"),
        *("dirsync", "remount", "mand", "nomand", "atime", "noatime", "diratime", "nodiratime"),
        *("bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave"),
        *("unbindable", "runbindable", "relatime", "norelatime", "strictatime"),
        *("nostrictatime", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "size"),
        "defaults",
    )
)


def valid_mode(mode: str) -> bool:
    """Whether `mode` is a comma-separated list with at most one word of each sort."""
    if not mode:
        return True
    words = mode.split(",")
    if any(not any(word in sort for sort in _MODES) for word in words):
        return False
    return all(sum(word in sort for word in words) <= 1 for sort in _MODES)


def clean(path: str) -> str:
    """path.Clean: no double slashes, dots or trailing slash."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def parse_bind(raw: str, volume_driver: str) -> MountRecord:
    """One of HostConfig.Binds. InvalidParameter with Docker's text."""
    parts = raw.split(":", 3)
    mode = parts[2] if len(parts) == 3 else ""
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and valid_mode(parts[1])):
        raise InvalidParameter(f"invalid volume specification: '{raw}'")
    if not valid_mode(mode):
        raise InvalidParameter(f"invalid mode: {mode}")
    source, target = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    words = mode.split(",") if mode else []
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    kind = "bind" if source.startswith("/") else "volume"
    problem = _target_problem(target)
    if kind != "bind" and propagation:
        problem = problem or "field BindOptions must not be specified"
    if kind == "bind" and "nocopy" in words:
        problem = problem or "field VolumeOptions must not be specified"
    if problem:
        raise InvalidParameter(
            f"invalid volume specification: '{raw}': invalid mount config for type \"{kind}\":"
            f" {problem}"
        )
    common = {"destination": clean(target), "mode": mode, "writable": "ro" not in words}
    if kind == "bind":
        return MountRecord(
            kind="bind",
            source=clean(source),
            propagation=propagation,
            create=True,
            **common,  # type: ignore[arg-type]  # str and bool as the names say
        )
    return MountRecord(
        kind="volume",
        name=source,
        driver=volume_driver,
        copy="nocopy" not in words,
        anonymous=not source,
        **common,  # type: ignore[arg-type]  # str and bool as the names say
    )


def with_propagation(mount: MountRecord, root: str) -> MountRecord:
    """A bind's propagation where it names none, and whether it may have what it names.

    A bind that shows the daemon's own folder must not hold on to what is mounted in it: a
    container's private copy would keep it busy for ever (moby validateBindDaemonRoot)."""
    if mount.kind != "bind":
        return mount
    related = mount.source.startswith(root) or root.startswith(mount.source)
    if not mount.propagation:
        return replace(mount, propagation="rslave" if related else "rprivate")
    if not related or mount.propagation in ("rslave", "rshared"):
        return mount
    raise InvalidParameter(
        'invalid mount config: must use either propagation mode "rslave" or "rshared" when mount'
        f' source is within the daemon root, daemon root: "{root}", bind mount source:'
        f' "{mount.source}", propagation: "{mount.propagation}"'
    )


def parse_mount(spec: MountSpec) -> MountRecord:
    """One of HostConfig.Mounts. InvalidParameter with Docker's text."""
    check_mount(spec)
    target = clean(spec.target)
    writable = not spec.read_only
    if spec.type == "bind":
        bind = spec.bind_options
        read_only = ""
        if bind is not None and bind.read_only_non_recursive:
            read_only = "non-recursive"
        elif bind is not None and bind.read_only_force_recursive:
            read_only = "force-recursive"
        return MountRecord(
            kind="bind",
            destination=target,
            source=clean(spec.source),
            writable=writable,
            propagation=bind.propagation if bind else "",
            non_recursive=bool(bind and bind.non_recursive),
            create=bool(bind and bind.create_mountpoint),
            read_only=read_only,
            configured=True,
        )
    if spec.type == "volume":
        volume = spec.volume_options
        driver = volume.driver_config.name if volume and volume.driver_config else ""
        return MountRecord(
            kind="volume",
            destination=target,
            name=spec.source,
            driver=driver,
            writable=writable,
            copy=not (volume and volume.no_copy),
            subpath=volume.subpath if volume else "",
            mode="z",
            anonymous=not spec.source,
            configured=True,
        )
    if spec.type == "tmpfs":
        return MountRecord(
            kind="tmpfs",
            destination=target,
            writable=writable,
            options=tmpfs_data(spec.tmpfs_options, spec.read_only),
            configured=True,
        )
    return MountRecord(
        kind="image",
        destination=target,
        source=spec.source,
        writable=writable,
        propagation="rprivate",
        subpath=spec.image_options.subpath if spec.image_options else "",
        configured=True,
    )


def check_mount(spec: MountSpec) -> None:
    """InvalidParameter `invalid mount config for type ...`."""
    problem = _mount_problem(spec)
    if problem:
        raise InvalidParameter(f'invalid mount config for type "{spec.type}": {problem}')


def _mount_problem(spec: MountSpec) -> str:
    for kind, field, value in (
        ("bind", "BindOptions", spec.bind_options),
        ("volume", "VolumeOptions", spec.volume_options),
        ("image", "ImageOptions", spec.image_options),
        ("tmpfs", "TmpfsOptions", spec.tmpfs_options),
    ):
        if spec.type != kind and value is not None:
            return f"field {field} must not be specified"
    problem = _target_problem(spec.target)
    if problem:
        return problem
    checks = {"bind": _bind_problem, "volume": _volume_problem, "tmpfs": _tmpfs_problem}
    if spec.type in checks:
        return checks[spec.type](spec)
    if spec.type == "image":
        if not spec.source:
            return "field Source must not be empty"
        return _subpath_problem(spec.image_options.subpath if spec.image_options else "")
    return "mount type unknown"


def _target_problem(target: str) -> str:
    if not target:
        return "field Target must not be empty"
    if clean(target) == "/":
        return "invalid specification: destination can't be '/'"
    if not target.startswith("/"):
        return f"invalid mount path: '{target}' mount path must be absolute"
    return ""


def _bind_problem(spec: MountSpec) -> str:
    if not spec.source:
        return "field Source must not be empty"
    bind = spec.bind_options
    if bind is not None and bind.propagation and bind.propagation not in PROPAGATIONS:
        return f"invalid propagation mode: {bind.propagation}"
    if not spec.source.startswith("/"):
        return f"invalid mount path: '{spec.source}' mount path must be absolute"
    if not os.path.lexists(spec.source) and not (bind and bind.create_mountpoint):
        return f"bind source path does not exist: {spec.source}"
    return ""


def _volume_problem(spec: MountSpec) -> str:
    subpath = spec.volume_options.subpath if spec.volume_options else ""
    if subpath and not spec.source:
        return "must not set Subpath when using anonymous volumes"
    return _subpath_problem(subpath)


def _subpath_problem(subpath: str) -> str:
    if subpath and (subpath.startswith("/") or clean(subpath).split("/")[0] == ".."):
        return "subpath must be a relative path within the volume"
    return ""


def _tmpfs_problem(spec: MountSpec) -> str:
    if spec.source:
        return "field Source must not be specified"
    for option in (spec.tmpfs_options.options if spec.tmpfs_options else None) or ():
        if not 1 <= len(option) <= 2:
            return "invalid option array length"
        if option[0] not in ("exec", "noexec"):
            return f"invalid option: {option[0]}"
    return ""


def tmpfs_data(options: TmpfsOptions | None, read_only: bool) -> str:
    """Mount data of TmpfsOptions."""
    words = ["ro"] if read_only else []
    if options is not None:
        if options.mode:
            words.append(f"mode={options.mode:o}")
        if options.size_bytes:
            size, suffix = options.size_bytes, ""
            for letter in ("k", "m", "g"):
                if size % 1024:
                    break
                size, suffix = size // 1024, letter
            words.append(f"size={size}{suffix}")
        words += ["=".join(option) for option in options.options or ()]
    return ",".join(words)


def parse_tmpfs(target: str, data: str) -> MountRecord:
    """One of HostConfig.Tmpfs."""
    problem = _target_problem(target)
    if problem:
        raise InvalidParameter(problem)
    for word in data.split(",") if data else ():
        if word.partition("=")[0] not in _TMPFS_WORDS:
            raise InvalidParameter(f'invalid tmpfs option "{word}"')
    return MountRecord(
        kind="tmpfs", destination=clean(target), options=data, writable="ro" not in data.split(",")
    )


def parse_volumes_from(spec: str) -> tuple[str, str]:
    """(container, mode) of one of VolumesFrom."""
    if not spec:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    name, _, mode = spec.partition(":")
    mode = mode or "rw"
    words = mode.split(",")
    if not valid_mode(mode) or any(w in PROPAGATIONS or w == "nocopy" for w in words):
        raise InvalidParameter(f"invalid mode: {mode}")
    return name, mode


def asked_for(host: HostConfig) -> list[MountRecord]:
    """Binds, Mounts and Tmpfs of a HostConfig, in this order. InvalidParameter."""
    found: dict[str, MountRecord] = {}
    parsed = [parse_bind(raw, host.volume_driver) for raw in host.binds or ()]
    parsed += [parse_mount(spec) for spec in (host.mounts if host.mounts else ())]
    tmpfs = host.tmpfs if host.tmpfs else {}
    parsed += [parse_tmpfs(target, data) for target, data in tmpfs.items()]
    for record in parsed:
        if record.destination in found:
            raise InvalidParameter(f"Duplicate mount point: {record.destination}")
        found[record.destination] = record
    return list(found.values())
