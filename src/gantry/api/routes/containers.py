"""/containers and /commit."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from typing import Final

from msgspec.structs import replace

from gantry.api import gojson, params
from gantry.api.backend import Json
from gantry.api.call import JSON, MULTIPLEXED, RAW_STREAM, TAR, Call, encode
from gantry.api.router import Route
from gantry.api.versions import containers as versions
from gantry.api.versions import create as create_versions
from gantry.http.reply import Sendable
from gantry.model.container import (
    ContainerConfig,
    HostConfig,
    NetworkingConfig,
    PortMap,
    RestartPolicy,
    UpdateRequest,
    Wire,
)
from gantry.model.errors import GantryError, InvalidParameter

CONDITIONS: Final = ("", "not-running", "next-exit", "removed")
BLKIO_LISTS: Final = (
    "BlkioWeightDevice",
    "BlkioDeviceReadBps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteIOps",
)
RESOURCES: Final = frozenset(
    (
        *("CpuShares", "Memory", "NanoCpus", "CgroupParent", "BlkioWeight", *BLKIO_LISTS),
        *("CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime"),
        *("CpusetCpus", "CpusetMems", "Devices", "DeviceCgroupRules", "DeviceRequests"),
        *("MemoryReservation", "MemorySwap", "MemorySwappiness", "OomKillDisable"),
        *("PidsLimit", "Ulimits", "CpuCount", "CpuPercent", "IOMaximumIOps"),
        "IOMaximumBandwidth",
    )
)
"""Fields of HostConfig that an update may change."""
SHORTEST_BODY: Final = 7
CHECKPOINT: Final = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_rows: Final = versions.Rows()


async def list_all(call: Call) -> Sendable:
    """GET /containers/json."""
    if not call.query_text:
        rows = call.backends.containers.list(everything=False, limit=0, size=False, filters={})
    else:
        if call.flag("size"):
            await call.backends.containers.measure()
        rows = call.backends.containers.list(
            everything=call.flag("all"),
            limit=params.integer(call.query, "limit") or 0,
            size=call.flag("size"),
            filters=params.filters(call.query),
        )
    return call.rows(_rows.translate(list(rows), call.version))


async def create(call: Call) -> Sendable:
    """POST /containers/create."""
    call.check_json()
    body = await call.body()
    if not body.strip():
        raise InvalidParameter("invalid JSON: EOF")
    document = gojson.parse(body)
    unified = call.version < 41 and call.backends.system.info().get("CgroupVersion") == "2"
    request, warnings = create_versions.request(
        document,
        call.version,
        name=call.text("name"),
        platform=call.text("platform"),
        cgroup_unified=unified,
    )
    answer = await call.finish(call.backends.containers.create(request))
    if warnings:
        answer = replace(answer, warnings=[*answer.warnings, *warnings])
    return call.json(answer, 201)


async def inspect(call: Call) -> Sendable:
    """GET /containers/{name}/json."""
    if call.flag("size"):
        await call.backends.containers.measure(call.name)
    answer = call.backends.containers.inspect(call.name, size=call.flag("size"))
    return call.json(versions.inspect(answer, call.version))


async def start(call: Call) -> Sendable:
    """POST /containers/{name}/start."""
    length = call.request.content_length
    if call.may_have_body() and (length is None or length > SHORTEST_BODY):
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 and "
            "removed in v1.24"
        )
    checkpoint = call.text("checkpoint")
    if checkpoint:
        if not CHECKPOINT.fullmatch(checkpoint) or checkpoint.endswith("."):
            raise InvalidParameter(
                f'invalid checkpoint ID "{checkpoint}", only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed'
            )
        if not call.app.experimental:
            raise InvalidParameter("checkpoint is only supported in experimental mode")
    await call.finish(
        call.backends.containers.start(
            call.name, checkpoint=checkpoint, checkpoint_dir=call.text("checkpoint-dir")
        )
    )
    return call.empty()


def _signal(call: Call) -> str | None:
    """`signal` of stop and restart, since 1.42."""
    return (call.text("signal") or None) if call.version >= 42 else None


async def stop(call: Call) -> Sendable:
    """POST /containers/{name}/stop."""
    action = call.backends.containers.stop(
        call.name, signal=_signal(call), timeout=params.integer(call.query, "t")
    )
    await call.finish(action)
    return call.empty()


async def restart(call: Call) -> Sendable:
    """POST /containers/{name}/restart."""
    action = call.backends.containers.restart(
        call.name, signal=_signal(call), timeout=params.integer(call.query, "t")
    )
    await call.finish(action)
    return call.empty()


async def kill(call: Call) -> Sendable:
    """POST /containers/{name}/kill."""
    try:
        await call.finish(call.backends.containers.kill(call.name, call.text("signal")))
    except GantryError as error:
        text = str(error)
        if not text.lower().startswith("cannot kill container"):
            error.args = (f"cannot kill container: {call.name}: {text}",)
        raise
    return call.empty()


async def pause(call: Call) -> Sendable:
    """POST /containers/{name}/pause."""
    await call.finish(call.backends.containers.pause(call.name))
    return call.empty()


async def unpause(call: Call) -> Sendable:
    """POST /containers/{name}/unpause."""
    await call.finish(call.backends.containers.unpause(call.name))
    return call.empty()


async def rename(call: Call) -> Sendable:
    """POST /containers/{name}/rename."""
    await call.finish(call.backends.containers.rename(call.name, call.text("name")))
    return call.empty()


async def remove(call: Call) -> Sendable:
    """DELETE /containers/{name}."""
    action = call.backends.containers.remove(
        call.name, force=call.flag("force"), volumes=call.flag("v"), link=call.flag("link")
    )
    await call.finish(action)
    return call.empty()


class _Edits(Wire, frozen=True):
    """What only this engine edits on a running container."""

    restart_policy: RestartPolicy | None = None
    labels: dict[str, str | None] | None = None
    port_bindings: PortMap | None = None
    networking_config: NetworkingConfig | None = None


async def update(call: Call) -> Sendable:
    """POST /containers/{name}/update."""
    document = await call.document()
    edits = gojson.convert(document, _Edits)
    given = gojson.canonical(document, HostConfig)
    resources = {key: value for key, value in given.items() if key in RESOURCES}
    if call.version < 40:
        resources.pop("PidsLimit", None)
    if call.version < 55:
        for key in BLKIO_LISTS:
            resources.pop(key, None)
    if resources.get("PidsLimit", 1) <= 0:
        resources["PidsLimit"] = 0  # 0 and all below are "unlimited"
    request = UpdateRequest(
        resources=resources,
        restart_policy=edits.restart_policy,
        labels=edits.labels,
        port_bindings=edits.port_bindings,
        networks=edits.networking_config.endpoints_config if edits.networking_config else None,
    )
    warnings = await call.finish(call.backends.containers.update(call.name, request))
    return call.json({"Warnings": warnings or None})


async def resize(call: Call) -> Sendable:
    """POST /containers/{name}/resize."""
    rows = params.dimension(call.query, "h", "height")
    columns = params.dimension(call.query, "w", "width")
    await call.backends.containers.resize(call.name, rows, columns)
    return call.empty(200)


async def top(call: Call) -> Sendable:
    """GET /containers/{name}/top."""
    return call.json(await call.backends.containers.top(call.name, call.text("ps_args")))


async def changes(call: Call) -> Sendable:
    """GET /containers/{name}/changes."""
    return call.json(await call.backends.containers.changes(call.name) or None)


async def wait(call: Call) -> Sendable:
    """POST /containers/{name}/wait: since 1.30 the head comes as soon as the wait is registered."""
    condition = call.text("condition") if call.version >= 30 else ""
    if condition not in CONDITIONS:
        raise InvalidParameter(f'invalid condition: "{condition}"')
    waiting = await call.backends.containers.wait(call.name, condition)
    if call.version < 30:
        return call.json(await waiting.result())
    reply = call.start_stream(JSON)
    result = await waiting.result()
    if call.version < 34 and condition == "removed" and result.get("Error"):
        return reply  # an empty answer was how failure was told
    if not result.get("Error"):
        result = {"StatusCode": result["StatusCode"]}
        if 34 <= call.version < 42:
            result["Error"] = None
    await reply.write(encode(result) + b"\n")
    return reply


async def logs(call: Call) -> Sendable:
    """GET /containers/{name}/logs."""
    stdout, stderr = call.flag("stdout"), call.flag("stderr")
    if not stdout and not stderr:
        raise InvalidParameter("must specify at least one of 'stdout' or 'stderr'")
    since = params.timestamp(call.query, "since", '"')
    until = params.timestamp(call.query, "until", '"')
    tty = call.backends.containers.tty(call.name)
    source = call.backends.containers.logs(
        call.name,
        stdout=stdout,
        stderr=stderr,
        since=since,
        until="" if until == "0" else until,
        timestamps=call.flag("timestamps"),
        follow=call.flag("follow"),
        tail=call.text("tail"),
        details=call.flag("details"),
    )
    kind = MULTIPLEXED if not tty and call.version >= 42 else RAW_STREAM
    return await call.send(source, kind, eager=True)


async def stats(call: Call) -> Sendable:
    """GET /containers/{name}/stats."""
    stream = call.flag("stream", default=True)
    source = call.backends.containers.stats(
        call.name,
        stream=stream,
        one_shot=call.version >= 41 and call.flag("one-shot"),
    )

    async def lines() -> AsyncIterator[bytes]:
        async for sample in source:
            if call.version < 52:
                sample = {key: value for key, value in sample.items() if key != "os_type"}
            yield encode(sample) + b"\n"

    return await call.send(lines(), JSON)


async def export(call: Call) -> Sendable:
    """GET /containers/{name}/export."""
    return await call.send(call.backends.containers.export(call.name), "application/octet-stream")


def _archive_path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidParameter("bad parameter: path cannot be empty")
    return path


def _stat_header(stat: Json) -> bytes:
    return b"X-Docker-Container-Path-Stat: " + base64.b64encode(encode(stat)) + b"\r\n"


async def archive_head(call: Call) -> Sendable:
    """HEAD /containers/{name}/archive."""
    path = _archive_path(call)
    stat = await call.backends.containers.archive_stat(call.name, path)
    reply = call.empty(200)
    reply.add_lines(_stat_header(stat))
    return reply


async def archive_get(call: Call) -> Sendable:
    """GET /containers/{name}/archive."""
    path = _archive_path(call)
    stat = await call.backends.containers.archive_stat(call.name, path)
    source = call.backends.containers.archive_get(call.name, path)
    return await call.send(source, TAR, extra=_stat_header(stat))


async def archive_put(call: Call) -> Sendable:
    """PUT /containers/{name}/archive."""
    path = _archive_path(call)
    await call.backends.containers.archive_put(
        call.name,
        path,
        call.stream(),
        no_overwrite_dir_non_dir=call.flag("noOverwriteDirNonDir"),
        copy_uid_gid=call.flag("copyUIDGID"),
    )
    return call.empty(200)


async def prune(call: Call) -> Sendable:
    """POST /containers/prune."""
    report = await call.finish(call.backends.containers.prune(params.filters(call.query)))
    return call.json(report)


async def commit(call: Call) -> Sendable:
    """POST /commit."""
    document = await call.document()
    config = gojson.canonical(document, ContainerConfig) if document is not None else None
    query = {key: values[0] for key, values in call.query.items() if key != "changes"}
    query["pause"] = "1" if call.flag("pause", default=True) else "0"
    changes = call.query.get("changes", ())
    answer = await call.finish(call.backends.containers.commit(query, config, changes))
    return call.json(answer, 201)


ROUTES: Final = [
    Route("GET", "/containers/json", list_all),
    Route("POST", "/containers/create", create),
    Route("POST", "/containers/prune", prune, since=25),
    Route("GET", "/containers/{name}/json", inspect),
    Route("GET", "/containers/{name}/top", top),
    Route("GET", "/containers/{name}/logs", logs),
    Route("GET", "/containers/{name}/stats", stats),
    Route("GET", "/containers/{name}/changes", changes),
    Route("GET", "/containers/{name}/export", export),
    Route("HEAD", "/containers/{name}/archive", archive_head),
    Route("GET", "/containers/{name}/archive", archive_get),
    Route("PUT", "/containers/{name}/archive", archive_put),
    Route("POST", "/containers/{name}/start", start),
    Route("POST", "/containers/{name}/stop", stop),
    Route("POST", "/containers/{name}/restart", restart),
    Route("POST", "/containers/{name}/kill", kill),
    Route("POST", "/containers/{name}/pause", pause),
    Route("POST", "/containers/{name}/unpause", unpause),
    Route("POST", "/containers/{name}/rename", rename),
    Route("POST", "/containers/{name}/update", update),
    Route("POST", "/containers/{name}/resize", resize),
    Route("POST", "/containers/{name}/wait", wait),
    Route("DELETE", "/containers/{name}", remove),
    Route("POST", "/commit", commit),
]
