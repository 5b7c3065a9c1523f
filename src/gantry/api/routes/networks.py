"""/networks."""

from __future__ import annotations

from typing import Final

from msgspec import field
from msgspec.structs import replace

from gantry.api import gojson, params
from gantry.api.backend import Json
from gantry.api.call import Call
from gantry.api.router import Route
from gantry.http.reply import Sendable
from gantry.model.container import EndpointSettings, Wire
from gantry.model.errors import InvalidParameter

TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class _Pool(Wire, frozen=True):
    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class _Ipam(Wire, frozen=True):
    driver: str = ""
    options: dict[str, str] | None = None
    config: list[_Pool] | None = None


class _ConfigFrom(Wire, frozen=True):
    network: str = ""


class _Create(Wire, frozen=True):
    name: str = ""
    driver: str = ""
    scope: str = ""
    check_duplicate: bool = False
    enable_ipv4: bool | None = field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = field(default=None, name="EnableIPv6")
    ipam: _Ipam | None = field(default=None, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: _ConfigFrom | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class _Connect(Wire, frozen=True):
    container: str = ""
    endpoint_config: EndpointSettings | None = None


class _Disconnect(Wire, frozen=True):
    container: str = ""
    force: bool = False


def downgrade(network: Json, version: int) -> Json:
    """A network as older clients expect it; the backend's dict is not changed."""
    if version >= 52:
        return network
    hidden = {"Status"} | ({"EnableIPv4"} if version < 48 else set())
    return {key: value for key, value in network.items() if key not in hidden}


async def list_all(call: Call) -> Sendable:
    """GET /networks. Up to 1.27 every row is as long as an inspection."""
    rows = await call.backends.networks.list(params.filters(call.query))
    if call.version < 28:
        networks = call.backends.networks
        rows = [await networks.inspect(row["Id"], verbose=False, scope="") for row in rows]
    elif call.version < 52:
        rows = [{"Containers": {}} | row for row in rows]
    return call.json([downgrade(row, call.version) for row in rows])


async def inspect(call: Call) -> Sendable:
    """GET /networks/{name}."""
    verbose = call.text("verbose")
    if verbose and verbose not in TRUE | FALSE:
        raise InvalidParameter(
            f'invalid value for verbose: {verbose}: strconv.ParseBool: parsing "{verbose}": '
            "invalid syntax"
        )
    network = await call.backends.networks.inspect(
        call.name, verbose=verbose in TRUE, scope=call.text("scope")
    )
    return call.json(downgrade(network, call.version))


async def create(call: Call) -> Sendable:
    """POST /networks/create."""
    body = gojson.canonical(await call.document(), _Create)
    if call.version < 48:
        body.pop("EnableIPv4", None)
    return call.json(await call.finish(call.backends.networks.create(body)), 201)


async def remove(call: Call) -> Sendable:
    """DELETE /networks/{name}."""
    await call.finish(call.backends.networks.remove(call.name))
    return call.empty()


async def connect(call: Call) -> Sendable:
    """POST /networks/{name}/connect."""
    request = await call.read(_Connect)
    config = request.endpoint_config
    if config is not None:
        if call.version < 54:
            config = replace(config, mac_address="")  # was not looked at then
        if call.version < 48:
            config = replace(config, gw_priority=0)
    await call.finish(call.backends.networks.connect(call.name, request.container, config))
    return call.empty(200)


async def disconnect(call: Call) -> Sendable:
    """POST /networks/{name}/disconnect."""
    request = await call.read(_Disconnect)
    await call.finish(
        call.backends.networks.disconnect(call.name, request.container, force=request.force)
    )
    return call.empty(200)


async def egress(call: Call) -> Sendable:
    """GET /networks/{name}/egress: what policies allow and refused. Not in Docker's API."""
    return call.json(await call.backends.networks.egress(call.name))


async def prune(call: Call) -> Sendable:
    """POST /networks/prune."""
    return call.json(await call.finish(call.backends.networks.prune(params.filters(call.query))))


ROUTES: Final = [
    Route("GET", "/networks", list_all),
    Route("GET", "/networks/", list_all),
    Route("GET", "/networks/{name}", inspect),
    Route("GET", "/networks/{name}/egress", egress),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune, since=25),
    Route("POST", "/networks/{name}/connect", connect),
    Route("POST", "/networks/{name}/disconnect", disconnect),
    Route("DELETE", "/networks/{name}", remove),
]
