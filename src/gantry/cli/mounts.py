"""`--mount` and `--volume`: what goes to Mounts, Binds and Volumes of a create request."""

from __future__ import annotations

import os

from gantry.cli.units import parse_bytes

Mount = dict[str, object]

_BIND = {"bind-propagation", "bind-nonrecursive", "bind-recursive"}
_TRUE = {"", "1", "true"}
_FALSE = {"0", "false"}


def parse_mount(text: str) -> Mount:
    """`type=bind,src=/a,dst=/b,ro` as the API's Mount. ValueError with Docker's text."""
    mount: Mount = {"Type": "volume"}
    volume: dict[str, object] = {}
    bind: dict[str, object] = {}
    tmpfs: dict[str, object] = {}
    image: dict[str, object] = {}
    for field in _csv(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals and key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        if key == "type":
            mount["Type"] = value.lower()
        elif key in ("source", "src"):
            dotted = value == "." or value.startswith(("./", "../"))
            mount["Source"] = os.path.abspath(value) if dotted else value
        elif key in ("target", "dst", "destination"):
            mount["Target"] = value
        elif key in ("readonly", "ro"):
            mount["ReadOnly"] = _boolean(key, value)
        elif key == "consistency":
            mount["Consistency"] = value.lower()
        elif key in _BIND:
            _bind_option(bind, key, value)
        elif key == "bind-create-src":
            bind["CreateMountpoint"] = _boolean(key, value)
        elif key.startswith("volume-"):
            _volume_option(volume, key, value)
        elif key == "image-subpath":
            image["Subpath"] = value
        elif key == "tmpfs-size":
            tmpfs["SizeBytes"] = parse_bytes(value)
        elif key == "tmpfs-mode":
            try:
                tmpfs["Mode"] = int(value, 8)
            except ValueError:
                raise ValueError(f"invalid value for {key}: {value}") from None
        else:
            raise ValueError(f"unknown option '{key}' in '{field}'")
    _finish(mount, volume, bind, tmpfs, image)
    return mount


def _csv(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    import csv

    return next(csv.reader([text]))


def _boolean(key: str, value: str) -> bool:
    if value in _TRUE | _FALSE:
        return value in _TRUE
    raise ValueError(f"invalid value for {key}: {value}")


def _bind_option(bind: dict[str, object], key: str, value: str) -> None:
    if key == "bind-propagation":
        bind["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        bind["NonRecursive"] = _boolean(key, value)
    elif value == "enabled":
        pass
    elif value == "disabled":
        bind["NonRecursive"] = True
    elif value == "writable":
        bind["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        bind["ReadOnlyForceRecursive"] = True
    else:
        raise ValueError(
            f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", '
            'or "readonly")'
        )


def _volume_option(volume: dict[str, object], key: str, value: str) -> None:
    if key == "volume-nocopy":
        volume["NoCopy"] = _boolean(key, value)
    elif key == "volume-subpath":
        volume["Subpath"] = value
    elif key == "volume-label":
        name, _, text = value.partition("=")
        labels = volume.setdefault("Labels", {})
        assert isinstance(labels, dict)
        labels[name] = text
    elif key in ("volume-driver", "volume-opt"):
        driver = volume.setdefault("DriverConfig", {})
        assert isinstance(driver, dict)
        if key == "volume-driver":
            driver["Name"] = value
        else:
            name, _, text = value.partition("=")
            driver.setdefault("Options", {})[name] = text
    else:
        raise ValueError(f"unknown option '{key}' in '{key}={value}'")


def _finish(
    mount: Mount,
    volume: dict[str, object],
    bind: dict[str, object],
    tmpfs: dict[str, object],
    image: dict[str, object],
) -> None:
    kind = mount["Type"]
    if not kind:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for name, options in (
        ("volume", volume),
        ("bind", bind),
        ("tmpfs", tmpfs),
        ("image", image),
    ):
        if not options:
            continue
        if kind != name:
            raise ValueError(f"cannot mix '{name}-*' options with mount type '{kind}'")
        mount[f"{name.capitalize()}Options"] = options


def split_volumes(volumes: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """`-v` values: binds (with a source) and anonymous volumes (a path alone).

    A relative source that begins with a dot is one on the client's side.
    """
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for text in dict.fromkeys(volumes):
        if not text:
            raise ValueError("invalid empty volume spec")
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous[text] = {}
            continue
        if not source:
            raise ValueError(f"invalid spec: {text}: empty section between colons")
        if source.startswith("."):
            source = os.path.abspath(source)
        binds.append(f"{source}:{rest}")
    return binds, anonymous
