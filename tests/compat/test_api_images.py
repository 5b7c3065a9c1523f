"""Images, networks and volumes over the API."""

from __future__ import annotations

import hashlib

import pytest
from tests.support import image
from tests.support.api import Api, Json, Params

VERSIONS = ["", "1.24", "1.30", "1.40", "1.41", "1.44", "1.47", "1.51", "1.55"]
TAR = {"Content-Type": "application/x-tar"}


@pytest.fixture(params=VERSIONS)
def versioned(request: pytest.FixtureRequest, api: Api) -> Api:
    newest = api.get("/version").text("ApiVersion")
    if request.param and int(request.param[2:]) > int(newest[2:]):
        pytest.skip(f"the engine has no more than {newest}")
    return api.at(str(request.param))


def load(api: Api, data: bytes, **params: str | int) -> list[dict[str, Json]]:
    return api.request("POST", "/images/load", {**params}, data, TAR).expect(200).lines()


class TestImages:
    def test_list(self, versioned: Api) -> None:
        entries = versioned.get("/images/json").expect(200).array()
        (got,) = [entry for entry in entries if entry["RepoTags"] == ["busybox:latest"]]
        expected = {"Id", "ParentId", "RepoTags", "RepoDigests", "Created", "Size", "Labels"}
        assert expected <= set(got)
        assert str(got["Id"]).startswith("sha256:")
        assert isinstance(got["Created"], int)
        assert isinstance(got["Size"], int)
        assert got["Size"] > 1_500_000

    def test_virtual_size_until_1_43(self, api: Api, is_gantry: bool) -> None:
        if not is_gantry:
            pytest.skip("since 1.44")
        assert "VirtualSize" in api.at("1.43").get("/images/json").array()[0]
        assert "VirtualSize" not in api.at("1.44").get("/images/json").array()[0]

    def test_inspect(self, versioned: Api) -> None:
        got = versioned.get("/images/busybox/json").expect(200).obj()
        expected = {"Id", "RepoTags", "Created", "Architecture", "Os", "Size", "RootFS", "Config"}
        assert expected <= set(got)
        layers = [f"sha256:{hashlib.sha256(image.rootfs()).hexdigest()}"]
        assert got["RootFS"] == {"Type": "layers", "Layers": layers}

    def test_history(self, versioned: Api) -> None:
        (got,) = versioned.get("/images/busybox/history").expect(200).array()
        assert {"Id", "Created", "CreatedBy", "Tags", "Size", "Comment"} <= set(got)
        assert got["Tags"] == ["busybox:latest"]

    def test_what_an_image_was_committed_from(self, api: Api) -> None:
        body: dict[str, Json] = {"Image": "busybox", "Cmd": ["ran"]}
        container = api.post("/containers/create", body=body).expect(201).text("Id")
        api.post("/commit", {"container": container, "repo": "made", "changes": "CMD z"})
        try:
            old = api.at("1.41").get("/images/made/json").expect(200).obj()
            assert old["Container"] == container
            config = old["ContainerConfig"]
            assert isinstance(config, dict)
            assert (config["Image"], config["Cmd"]) == ("busybox", ["ran"])
            newest = api.get("/version").text("ApiVersion")
            if int(newest[2:]) >= 45:
                assert not {"Container", "ContainerConfig"} & set(
                    api.get("/images/made/json").obj()
                )
        finally:
            api.delete("/images/made").expect(200)

    def test_commit_completes_a_config_from_the_containers(self, api: Api) -> None:
        body: dict[str, Json] = {
            "Image": "busybox", "Cmd": ["ran"], "Env": ["A=1", "B=2"], "Labels": {"l": "own"},
        }  # fmt: skip
        container = api.post("/containers/create", body=body).expect(201).text("Id")
        given: dict[str, Json] = {"Cmd": ["z"], "Env": ["B=9"], "Labels": {"from": "body"}}
        params: Params = {"container": container, "repo": "completed", "changes": "ENV C=3"}
        api.post("/commit", params, given).expect(201)
        config = api.get("/images/completed/json").expect(200).obj()["Config"]
        assert isinstance(config, dict)
        assert config["Cmd"] == ["z"]
        assert config["Labels"] == {"from": "body", "l": "own"}
        env = config["Env"]
        assert isinstance(env, list)
        assert env[:3] == ["B=9", "C=3", "A=1"]
        newest = api.get("/images/completed/history").array()[0]
        assert newest["CreatedBy"] == "ran"
        refused = api.post("/commit", {"container": container, "changes": ""}, given)
        assert (refused.status, refused.message) == (400, "file with no instructions")
        api.delete("/images/completed").expect(200)

    def test_saving_a_tag_that_is_not_there(self, api: Api) -> None:
        missing = api.get("/images/busybox:none/get")
        assert (missing.status, missing.message) == (404, "reference does not exist")

    def test_tag_and_remove(self, versioned: Api) -> None:
        versioned.post("/images/busybox/tag", {"repo": "other", "tag": "v1"}).expect(201)
        answer = versioned.delete("/images/other:v1").expect(200)
        assert answer.json() == [{"Untagged": "other:v1"}]

    def test_names_with_slashes(self, api: Api) -> None:
        params: Params = {"repo": "example.org:5000/a/b", "tag": "c"}
        api.post("/images/busybox/tag", params).expect(201)
        assert api.get("/images/example.org:5000/a/b:c/json").status == 200
        assert api.get("/images/example.org:5000/a/b:c/history").status == 200
        api.delete("/images/example.org:5000/a/b:c").expect(200)

    def test_filters(self, api: Api) -> None:
        params: Params = {"filters": {"reference": ["busy*"]}}
        assert len(api.get("/images/json", params).array()) == 1
        params = {"filters": {"reference": ["nope*"]}}
        assert api.get("/images/json", params).array() == []

    def test_import_progress(self, api: Api) -> None:
        params: Params = {"fromSrc": "-", "repo": "made", "tag": "1", "message": "m"}
        answer = api.request("POST", "/images/create", params, image.rootfs(), TAR).expect(200)
        assert answer.headers["content-type"] == "application/json"
        status = str(answer.lines()[-1]["status"])
        assert status.startswith("sha256:")
        assert api.get("/images/made:1/json").text("Id") == status
        api.delete("/images/made:1").expect(200)

    def test_load_and_save(self, api: Api) -> None:
        lines = load(api, image.docker_archive("loaded:1"))
        assert {"stream": "Loaded image: loaded:1\n"} in lines
        saved = api.get("/images/loaded:1/get").expect(200)
        assert saved.headers["content-type"] == "application/x-tar"
        identity = api.get("/images/loaded:1/json").text("Id")
        api.delete("/images/loaded:1").expect(200)
        load(api, saved.body, quiet=1)
        assert api.get("/images/loaded:1/json").text("Id") == identity
        api.delete("/images/loaded:1").expect(200)

    @pytest.mark.parametrize("data", [b"garbage" * 1000, b"", b"\x1f\x8b\x08garbage"])
    def test_load_garbage(self, api: Api, data: bytes) -> None:
        before = api.get("/images/json", {"all": 1}).body
        answer = api.request("POST", "/images/load", {}, data, TAR)
        if answer.status == 200:
            assert data == b"" or any("errorDetail" in line for line in answer.lines())
        else:
            assert answer.message
        assert api.get("/images/json", {"all": 1}).body == before

    def test_load_hostile_names(self, api: Api) -> None:
        for config in ("../../etc/passwd", "/etc/passwd"):
            data = image.docker_archive("evil:1").replace(
                b'"Config": "', b'"Config": "' + config.encode() + b'","x":"'
            )
            answer = api.request("POST", "/images/load", {}, data, TAR)
            assert answer.status != 200 or any("errorDetail" in line for line in answer.lines())
        assert api.get("/images/evil:1/json").status == 404

    def test_search_without_network(self, api: Api) -> None:
        assert api.get("/images/search", {}).status >= 400

    def test_prune(self, api: Api) -> None:
        got = api.post("/images/prune").expect(200).obj()
        assert set(got) == {"ImagesDeleted", "SpaceReclaimed"}

    def test_remove_conflict(self, api: Api) -> None:
        made = api.post("/containers/create", body={"Image": "busybox"}).text("Id")
        answer = api.delete("/images/busybox")
        assert answer.status == 409
        assert f"container {made[:12]} is using its referenced image" in answer.message

    def test_pull_from_nowhere(self, api: Api) -> None:
        params: Params = {"fromImage": "127.0.0.1:9/nope", "tag": "latest"}
        answer = api.post("/images/create", params)
        failed = answer.status >= 400 or any("errorDetail" in line for line in answer.lines())
        assert failed


class TestNetworks:
    def test_list(self, versioned: Api) -> None:
        entries = versioned.get("/networks").expect(200).array()
        assert {"bridge", "host", "none"} <= {entry["Name"] for entry in entries}
        (bridge,) = [entry for entry in entries if entry["Name"] == "bridge"]
        expected = {"Id", "Created", "Scope", "Driver", "EnableIPv6", "IPAM", "Internal", "Options"}
        assert expected <= set(bridge)
        assert (bridge["Scope"], bridge["Driver"]) == ("local", "bridge")

    def test_inspect_by_name_and_id(self, api: Api) -> None:
        by_name = api.get("/networks/bridge").expect(200).obj()
        assert api.get(f"/networks/{by_name['Id']}").obj()["Name"] == "bridge"
        assert api.get(f"/networks/{str(by_name['Id'])[:8]}").obj()["Name"] == "bridge"

    def test_predefined_stay(self, api: Api) -> None:
        answer = api.delete("/networks/bridge")
        assert answer.status == 403
        assert "bridge is a pre-defined network and cannot be removed" in answer.message


class TestVolumes:
    def test_whole_life(self, versioned: Api) -> None:
        made = versioned.post("/volumes/create", body={"Name": "gt-api", "Labels": {"a": "1"}})
        got = made.expect(201).obj()
        assert {"Name", "Driver", "Mountpoint", "CreatedAt", "Scope", "Options"} <= set(got)
        assert (got["Name"], got["Driver"], got["Scope"]) == ("gt-api", "local", "local")
        listed = versioned.get("/volumes").obj()["Volumes"]
        assert isinstance(listed, list)
        assert "gt-api" in [entry["Name"] for entry in listed if isinstance(entry, dict)]
        assert versioned.get("/volumes/gt-api").text("Mountpoint") == got["Mountpoint"]
        assert versioned.delete("/volumes/gt-api").status == 204

    def test_create_twice_is_the_same(self, api: Api) -> None:
        first = api.post("/volumes/create", body={"Name": "gt-same"}).obj()
        assert api.post("/volumes/create", body={"Name": "gt-same"}).obj() == first
        api.delete("/volumes/gt-same").expect(204)

    def test_made_up_name(self, api: Api) -> None:
        name = api.post("/volumes/create", body={}).expect(201).text("Name")
        assert len(name) == 64
        api.delete(f"/volumes/{name}").expect(204)

    def test_bad_name(self, api: Api) -> None:
        answer = api.post("/volumes/create", body={"Name": "a/b"})
        assert answer.status in (400, 500)
        assert "includes invalid characters for a local volume name" in answer.message

    def test_bad_driver(self, api: Api) -> None:
        answer = api.post("/volumes/create", body={"Name": "x", "Driver": "nope"})
        assert answer.status in (400, 404)
        assert 'plugin "nope" not found' in answer.message

    def test_prune(self, api: Api) -> None:
        api.post("/volumes/create", body={}).expect(201)
        got = api.post("/volumes/prune").expect(200).obj()
        assert set(got) == {"VolumesDeleted", "SpaceReclaimed"}
