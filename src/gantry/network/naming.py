"""The names that containers have for each other, and the policies on what they may reach.

One table of names a user-defined network; the embedded DNS server of each sandbox answers
from those of its networks, under the container's egress policy if it has one.
"""

from __future__ import annotations

from dataclasses import replace

from gantry.model.errors import InvalidParameter
from gantry.model.network import EndpointState, NetworkRecord
from gantry.network import endpoints, links
from gantry.network.bridge import bridge_name
from gantry.network.catalog import Catalog, user_defined
from gantry.network.dns import DnsServers, View
from gantry.network.egress import OPTION, Egress, Layer, Restriction
from gantry.network.live import Live
from gantry.network.names import Names
from gantry.network.visible import Visible


class Naming:
    """See the module."""

    def __init__(self, catalog: Catalog, visible: Visible, dns: DnsServers, egress: Egress) -> None:
        self._catalog = catalog
        self._visible = visible
        self._dns = dns
        self._egress = egress
        self._names: dict[str, Names] = {}

    def names(self, record: NetworkRecord) -> Names:
        found = self._names.get(record.id)
        if found is None:
            found = self._names[record.id] = Names(record.name)
        return found

    def forget_network(self, record: NetworkRecord) -> None:
        self._names.pop(record.id, None)

    def remember(self, record: NetworkRecord, state: EndpointState) -> None:
        if user_defined(record.name):
            self.names(record).add(state.endpoint_id, state.dns_names, state.ip, state.ipv6)

    def forget(self, state: EndpointState) -> None:
        names = self._names.get(state.network_id)
        if names is not None:
            names.remove(state.endpoint_id)

    async def serve(self, live: Live, port: int = 0) -> None:
        """The embedded DNS server runs, with the right view, where it is due.
        port: where it listened before a restart."""
        self._restrict(live)
        if not self._visible.embedded(live.request, live.endpoints):
            if live.dns is not None:
                server, live.dns = live.dns, None
                await self._dns.withdraw(server)
            return
        view = self._view(live)
        if live.dns is None:
            live.dns = await self._dns.open(live.netns_fd, view, port)
        else:
            live.dns.change(view)

    def stop(self, live: Live, *, lift: bool) -> None:
        """No longer serve. lift: the container is gone, and its policy; otherwise the daemon
        ends, and the policy holds."""
        if live.dns is not None:
            self._dns.close(live.dns)
        if lift and live.restriction is not None:
            self._egress.lift(live.request.container_id)

    def _restrict(self, live: Live) -> None:
        """Under its egress policy: its own and those of all its networks together."""
        layers: list[Layer] = []
        if live.request.egress is not None:
            layers.append(Layer.parse(live.request.egress))
        records = [self._catalog.get(state.network_id) for state in live.endpoints.values()]
        for record in records:
            if record is not None and OPTION in record.options:
                layers.append(Layer.parse(record.options[OPTION].split(",")))
        if not layers:
            live.restriction = None
            self._egress.lift(live.request.container_id)
            return
        for record in records:
            if record is not None and record.driver not in ("bridge", "null"):
                raise InvalidParameter(
                    f"egress policies do not reach networks of the driver {record.driver}"
                )
        pairs = [
            (state.host_interface, address)
            for state in live.endpoints.values()
            for address in (state.ip, state.ipv6)
            if address
        ]
        live.restriction = Restriction(
            owner=self._egress,
            container=live.request.container_id,
            networks=tuple(state.network_id for state in live.endpoints.values()),
            layers=tuple(layers),
            sources=tuple(address for _, address in pairs),
            interfaces=tuple(pairs),
            bridges=tuple(
                bridge_name(r) for r in records if r is not None and r.driver == "bridge"
            ),
        )
        self._egress.restrict(live.restriction)

    def _view(self, live: Live) -> View:
        _, upstreams, ndots = self._visible.resolv_conf(live.request, "embedded")
        networks: list[Names] = []
        aliases: dict[tuple[str, str], str] = {}
        for state in endpoints.ranked(live.endpoints.values(), self._catalog):
            record = self._catalog.get(state.network_id)
            if record is None or not user_defined(record.name):
                continue
            networks.append(self.names(record))
            own = live.request.links if live.request.mode in (record.name, record.id) else ()
            for link in (*own, *state.config.links):
                target, alias = links.parse(link)
                aliases[record.name, alias.lower()] = target
        return View(
            networks=networks,
            links=aliases,
            # A restricted container reaches no server itself: we ask for it.
            upstreams=[replace(u, from_host=True) for u in upstreams]
            if live.restriction
            else upstreams,
            external=any(live.ways),
            ndots=ndots,
            policy=live.restriction,
        )
