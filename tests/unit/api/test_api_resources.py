"""System, images, networks and volumes, by version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.api.fake_engine import engine
from tests.unit.http.wire_client import run

from gantry.api.versions.system import disk_usage


def test_info(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            served.fakes.system.facts = {
                "ID": "x",
                "NRI": {},
                "DiscoveredDevices": [],
                "FirewallBackend": {},
                "Containerd": {},
                "RuncCommit": {"ID": "r"},
                "Runtimes": {"runc": {"path": "runc", "status": {}}},
            }
            new = (await served.get("/v1.53/info")).json()
            assert new == served.fakes.system.facts
            old = (await served.get("/v1.24/info")).json()
            assert not {"NRI", "DiscoveredDevices", "FirewallBackend", "Containerd"} & set(old)
            assert old["RuncCommit"] == {"ID": "r", "Expected": "r"}
            assert old["Runtimes"] == {"runc": {"path": "runc"}}
            assert old["BridgeNfIptables"] is False
            assert "AllowNondistributableArtifactsCIDRs" in old["RegistryConfig"]
            middle = (await served.get("/v1.49/info")).json()
            assert "FirewallBackend" in middle
            assert "DiscoveredDevices" not in middle
            assert (await served.get("/version")).json()["ApiVersion"] == "1.55"

    run(main)


def test_disk_usage(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            old = (await served.get("/v1.41/system/df?type=nonsense")).json()
            assert old["LayersSize"] == 5
            assert old["Images"][0]["VirtualSize"] == 5
            assert old["BuilderSize"] == 0
            assert "Health" not in old["Containers"][0]
            new = (await served.get("/v1.52/system/df?verbose=1")).json()
            assert new["ContainerUsage"] == {
                "Items": [{"State": "exited", "SizeRw": 3, "Health": {"Status": "none"}}],
                "Reclaimable": 3, "TotalCount": 1, "TotalSize": 3,
            }  # fmt: skip
            assert new["ImageUsage"]["ActiveCount"] == 1
            assert "Images" not in new
            both = (await served.get("/v1.52/system/df")).json()
            assert both["Images"]
            assert "Items" not in both["ImageUsage"]
            bad = await served.get("/v1.42/system/df?type=nonsense")
            assert (bad.status, bad.message) == (400, "unknown object type: nonsense")
            await served.get("/system/df?type=image&type=volume")
            assert served.fakes.recorder.last("df")["types"] == ["image", "volume"]

    run(main)


def test_layers_that_used_images_share_are_not_reclaimable() -> None:
    rows: list[dict[str, Any]] = [
        {"Size": 100, "SharedSize": 90, "Containers": 1},
        {"Size": 90, "SharedSize": 90, "Containers": 0},
        {"Size": 7, "SharedSize": 0, "Containers": 0},
    ]
    shown = disk_usage({"Images": rows, "LayersSize": 107}, 52, verbose=False)["ImageUsage"]
    assert shown == {"ActiveCount": 1, "Reclaimable": 7, "TotalCount": 3, "TotalSize": 107}


def test_auth(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.post("/auth", {"username": "u"})
            assert answer.json()["Status"] == "Login Succeeded"
            assert served.fakes.recorder.last("auth")["body"] == {"username": "u"}
            bad = await served.post("/auth", b"{")
            assert bad.status == 400
            assert bad.message.startswith("invalid X-Registry-Auth header: invalid JSON: ")

    run(main)


def test_image_rows(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            row: dict[str, Any] = {
                "Id": "i", "Size": 9, "Containers": 2, "RepoTags": [], "RepoDigests": [],
                "Descriptor": {},
            }  # fmt: skip

            async def at(version: int) -> dict[str, Any]:
                served.fakes.images.rows = [dict(row)]
                found: dict[str, Any] = (await served.get(f"/v1.{version}/images/json")).json()[0]
                return found

            assert (await at(42))["RepoTags"] == ["<none>:<none>"]
            assert (await at(42))["RepoDigests"] == ["<none>@<none>"]
            assert (await at(43))["RepoTags"] == []
            assert (await at(43))["VirtualSize"] == 9
            assert "VirtualSize" not in await at(44)
            assert "Descriptor" not in await at(47)
            assert (await at(50))["Containers"] == -1
            assert (await at(51)) == row
            await served.get("/v1.24/images/json?filter=busybox&shared-size=1")
            given = served.fakes.recorder.last("images")
            assert given["filters"] == {"reference": ["busybox"]}
            assert given["shared_size"] is False
            await served.get("/v1.42/images/json?filter=busybox&shared-size=1&all=1")
            given = served.fakes.recorder.last("images")
            assert (given["filters"], given["shared_size"]) == ({}, True)

    run(main)


def test_image_inspect(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            served.fakes.images.detail = {
                "Id": "i", "Size": 9, "Config": {"Cmd": ["sh"]}, "Descriptor": {}, "Identity": [],
            }  # fmt: skip

            async def at(version: int) -> dict[str, Any]:
                found: dict[str, Any] = (await served.get(f"/v1.{version}/images/a/b/json")).json()
                return found

            newest = await at(53)
            assert newest["Config"] == {"Cmd": ["sh"]}
            assert (newest["RepoTags"], newest["RepoDigests"]) == ([], [])
            assert "Identity" not in await at(52)
            assert "Author" not in await at(52)
            assert (await at(51))["Author"] == ""
            assert (await at(50))["Config"]["Cmd"] == ["sh"]
            assert (await at(50))["Config"]["Env"] is None
            assert "Hostname" not in (await at(50))["Config"]
            assert (await at(49))["Config"]["Hostname"] == ""
            assert "Descriptor" not in await at(47)
            assert "ContainerConfig" not in await at(45)
            assert "ContainerConfig" in await at(44)
            old = await at(43)
            assert (old["VirtualSize"], old["Created"]) == (9, "0001-01-01T00:00:00Z")
            assert served.fakes.recorder.last("image") == {"name": "a/b"}

    run(main)


def test_image_verbs(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            assert (await served.post("/images/a/b/tag?repo=r&tag=t")).status == 201
            assert served.fakes.recorder.last("tag") == {"source": "a/b", "repo": "r", "tag": "t"}
            gone = await served.client.request("DELETE", "/images/a/b?force=1&noprune=1")
            assert gone.json() == [{"Deleted": "a/b"}]
            saved = await served.get("/images/get?names=a&names=b")
            assert (saved.headers["content-type"], saved.body) == ("application/x-tar", b"tar")
            assert served.fakes.recorder.last("save")["names"] == ["a", "b"]
            platform = "%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22amd64%22%7D"
            await served.get(f"/v1.48/images/a/get?platform={platform}")
            assert served.fakes.recorder.last("save")["platform"] == "linux/amd64"
            await served.get(f"/v1.47/images/a/get?platform={platform}")
            assert served.fakes.recorder.last("save")["platform"] == ""
            two = await served.get(f"/v1.50/images/a/get?platform={platform}&platform={platform}")
            assert two.message.startswith("multiple platform parameters are not supported")
            both = await served.get(f"/images/a/json?manifests=1&platform={platform}")
            assert "manifests and platform options cannot both be set" in both.message
            assert (await served.post("/images/a/push?tag=t")).status == 200
            assert (await served.get("/images/search?term=t&limit=-1")).status == 400
            assert (await served.get("/images/search?term=t")).json() == []
            assert (await served.get("/distribution/a/b/json")).status == 200
            assert (await served.get("/v1.54/images/a/attestations")).status == 400
            assert (await served.get("/images/a/attestations")).json() == []
            assert (await served.get("/images/a/history")).json() == []
            assert (await served.post("/images/prune")).status == 200

    run(main)


def test_networks(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            for version, shown in (
                (27, {"Containers"}),
                (47, {"Containers"}),
                (52, {"EnableIPv4", "Status"}),
            ):
                rows = (await served.get(f"/v1.{version}/networks")).json()
                assert set(rows[0]) - {"Id", "Name"} == shown
            assert "EnableIPv4" in (await served.get("/v1.48/networks/net")).json()
            bad = await served.get("/networks/net?verbose=x")
            assert bad.message.startswith("invalid value for verbose: x: strconv.ParseBool")
            body = {"name": "n", "EnableIPv4": False, "IPAM": {"Config": [{"subnet": "1.0.0.0/8"}]}}
            assert (await served.post("/v1.48/networks/create", body)).status == 201
            made = served.fakes.recorder.last("network_create")["body"]
            assert (made["Name"], made["EnableIPv4"]) == ("n", False)
            assert made["IPAM"]["Config"][0]["Subnet"] == "1.0.0.0/8"
            await served.post("/v1.47/networks/create", body)
            assert "EnableIPv4" not in served.fakes.recorder.last("network_create")["body"]
            connect = {
                "Container": "c",
                "EndpointConfig": {"MacAddress": "m", "GwPriority": 2, "IPAMConfig": None},
            }
            for version, mac, priority in ((47, "", 0), (48, "", 2), (54, "m", 2)):
                answer = await served.post(f"/v1.{version}/networks/n/connect", connect)
                assert answer.status == 200
                config = served.fakes.recorder.last("connect")["config"]
                assert (config.mac_address, config.gw_priority) == (mac, priority)
            await served.post("/networks/n/disconnect", {"Container": "c", "Force": True})
            assert served.fakes.recorder.last("disconnect") == {
                "network": "n", "container": "c", "force": True,
            }  # fmt: skip
            assert (await served.client.request("DELETE", "/networks/n")).status == 204
            assert (await served.post("/networks/prune")).status == 200

    run(main)


def test_volumes(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.post(
                "/volumes/create", {"name": "v", "DriverOpts": {"type": "tmpfs"}, "Labels": None}
            )
            assert answer.status == 201
            made = served.fakes.recorder.last("volume_create")["body"]
            assert made == {"Name": "v", "DriverOpts": {"type": "tmpfs"}}
            assert (await served.post("/volumes/create", {"ClusterVolumeSpec": {}})).status == 503
            assert (await served.get("/volumes/x")).message == "get x: no such volume"
            assert (await served.get("/volumes")).json()["Volumes"] == []
            await served.post("/v1.41/volumes/prune")
            assert served.fakes.recorder.last("volume_prune")["filters"] == {"all": ["true"]}
            await served.post("/v1.42/volumes/prune")
            assert served.fakes.recorder.last("volume_prune")["filters"] == {}
            gone = await served.client.request("DELETE", "/volumes/v?force=1")
            assert gone.status == 204

    run(main)
