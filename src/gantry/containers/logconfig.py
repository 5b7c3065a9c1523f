"""HostConfig.LogConfig, checked and turned into what the shim writes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from gantry.containers.clock import rfc3339
from gantry.containers.core import Core
from gantry.containers.record import Container
from gantry.logs import drivers
from gantry.logs.sender import Source
from gantry.model.errors import InvalidParameter
from gantry.model.numbers import clamped, whole
from gantry.model.task import LogSpec

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_COMMON: Final = frozenset(("mode", "max-buffer-size"))
_KNOWN: Final[dict[str, frozenset[str]]] = {
    "json-file": frozenset(
        ("max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag")
    ),
    "local": frozenset(("max-file", "max-size", "compress")),
}
_UNKNOWN: Final = {"local": "unknown log opt '{}' for log driver {}"}
"""Where a driver says it in other words than the rest."""


def size(text: str) -> int:
    """Bytes of "10m", "1.5g" (powers of 1024); -1 is no limit. ValueError."""
    if text == "-1":
        return 0
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    return whole(float(match[1]) * _UNITS[match[2].lower()])


def check(driver: str, options: Mapping[str, str]) -> None:
    """InvalidParameter with Docker's texts."""
    if driver == "none":
        return
    remote = drivers.OPTIONS.get(driver)
    known = _KNOWN.get(driver) if remote is None else remote | drivers.COMMON | drivers.CACHE
    if known is None:
        raise InvalidParameter(
            f'error looking up logging plugin {driver}: plugin "{driver}" not found'
        )
    for key in options:
        if key not in known and key not in _COMMON:
            template = _UNKNOWN.get(driver, "unknown log opt '{}' for {} log driver")
            raise InvalidParameter(template.format(key, driver))
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options and mode != "non-blocking":
        raise InvalidParameter(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
        )
    try:
        size(options.get("max-buffer-size", "0"))
    except ValueError as error:
        raise InvalidParameter(f"error parsing option max-buffer-size: {error}") from None
    if remote is not None:
        drivers.CHECKS[driver](options)
        options = _cache(options)
    try:
        if "max-size" in options:
            size(options["max-size"])
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    text = options.get("max-file", "1")
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
    files = clamped(text)
    if files > 1 << 63:
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": value out of range')
    if files < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    compress = options.get("compress", "false").lower()
    if compress not in ("true", "false", "1", "0", "t", "f"):
        raise InvalidParameter(
            f'strconv.ParseBool: parsing "{options["compress"]}": invalid syntax'
        )


def _cache(options: Mapping[str, str]) -> dict[str, str]:
    """Options of the local copy that a driver which sends elsewhere has (moby loggerutils/cache).

    Not compressed: who sends it reads it once more.
    """
    return {
        "max-size": options.get("cache-max-size", "20m"),
        "max-file": options.get("cache-max-file", "5"),
    }


def log_spec(core: Core, container: Container) -> LogSpec:
    """What the shim writes of the container's output."""
    config = container.record.host_config.log_config
    options = config.config
    if config.type == "none":
        return LogSpec("none", "")
    if config.type in drivers.OPTIONS:
        options = _cache(options)
    local = config.type == "local"
    default_size, default_files = ("20m", "5") if local else ("-1", "1")
    compress = options.get("compress", "true" if local else "false").lower() in ("true", "1", "t")
    path = core.log_path(container)
    return LogSpec(
        driver="local" if local else "json-file",
        path=path,
        max_size=size(options.get("max-size", default_size)),
        max_file=clamped(options.get("max-file", default_files)),
        compress=compress and config.type in ("json-file", "local"),
        attrs=_attributes(container, options),
    )


def source(container: Container, host: str) -> Source:
    """The container as log servers know it. host: this machine's name."""
    record, options = container.record, container.record.host_config.log_config.config
    attributes = _attributes(container, options)
    attributes.pop("tag", None)
    template = options.get("tag", "") or "{{.ID}}"
    return Source(
        container_id=record.id,
        name=record.name,
        image_id=record.image,
        image=record.config.image,
        command=" ".join([record.path, *record.args]),
        created=rfc3339(record.created),
        tag=tag(container, template),
        host=host,
        pid=os.getpid(),
        attributes=attributes,
    )


def _attributes(container: Container, options: Mapping[str, str]) -> dict[str, str]:
    """`labels`, `env` and `tag` of the json-file driver."""
    found: dict[str, str] = {}
    config = container.record.config
    if not options:
        return found
    labels = [key for key in options.get("labels", "").split(",") if key]
    pattern = options.get("labels-regex", "")
    for key, value in config.labels.items():
        if key in labels or (pattern and re.search(pattern, key)):
            found[key] = value
    names = [key for key in options.get("env", "").split(",") if key]
    pattern = options.get("env-regex", "")
    for entry in config.env or ():
        key, _, value = entry.partition("=")
        if key in names or (pattern and re.search(pattern, key)):
            found[key] = value
    if options.get("tag"):
        found["tag"] = tag(container, options["tag"])
    return found


def tag(container: Container, template: str) -> str:
    """The log tag's template, as far as it is a list of fields (moby daemon/logger/loginfo)."""
    record = container.record
    fields = {
        ".ID": record.id[:12],
        ".FullID": record.id,
        ".Name": record.name,
        ".ImageID": record.image.removeprefix("sha256:")[:12],
        ".ImageFullID": record.image,
        ".ImageName": record.config.image,
        ".DaemonName": "docker",
    }
    return re.sub(r"\{\{\s*(\.\w+)\s*\}\}", lambda match: fields.get(match[1], match[0]), template)
