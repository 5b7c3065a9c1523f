"""Who may pull and push: tokens, basic credentials, and refusals."""

from __future__ import annotations

import base64

import pytest
from aiohttp import web
from tests.support.exchange import BASE, TOP, Json, Served, pull, push
from tests.support.imagebox import ImageBox
from tests.support.ownregistry import OwnRegistry

from gantry.model.errors import (
    GantryError,
    Unauthorized,
)
from gantry.registry.auth import Credentials


class TokenServer:
    """Docker's token protocol: basic credentials or an identity token for a bearer."""

    def __init__(self, registry: OwnRegistry) -> None:
        self.registry = registry
        self.asked: list[Json] = []
        registry.hook = self.hook

    def hook(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            return self.token(request)
        if not request.path.startswith("/v2"):
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        granted = token.split("|") if scheme == "Bearer" else []
        action = "pull" if request.method in ("GET", "HEAD") else "push"
        needed = "any" if request.path == "/v2/" else action
        if needed in granted:
            return None
        challenge = f'Bearer realm="http://{self.registry.host}/token",service="tests"'
        if needed != "any":
            name = request.path.split("/")[2]
            challenge += f',scope="repository:{name}:{needed}"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    def token(self, request: web.Request) -> web.StreamResponse:
        scopes = " ".join(request.query.getall("scope", []))
        self.asked.append({"scope": scopes, "method": request.method, **request.query})
        user = ""
        header = request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            user = base64.b64decode(header[6:]).decode()
            if user != "me:secret":
                return web.json_response({"details": "incorrect username or password"}, status=401)
        granted = ["any", "pull"] + (["push"] if user and "push" in scopes else [])
        document = {"token": "|".join(granted), "expires_in": 300}
        if user and request.query.get("offline_token"):
            document["refresh_token"] = "identity"
        return web.json_response(document)


class TestAuthentication:
    def test_tokens(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            server = TokenServer(registry)
            name = f"{registry.host}/x"
            await pull(box, name, "1")
            scopes = [one["scope"] for one in server.asked]
            assert scopes.count("repository:x:pull") == 1, "a token is used again"
            with pytest.raises(GantryError, match="authentication required"):
                await push(box, name, "1")
            with pytest.raises(GantryError, match="incorrect username or password"):
                await push(box, name, "1", auth={"username": "me", "password": "wrong"})
            await push(box, name, "1", auth={"username": "me", "password": "secret"})

        served(body)

    def test_login(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            TokenServer(registry)
            good = {"username": "me", "password": "secret", "serveraddress": registry.host}
            assert await box.images.login(good) == {
                "Status": "Login Succeeded",
                "IdentityToken": "identity",
            }
            with pytest.raises(Unauthorized, match=r'Get "http://.*/v2/": unauthorized'):
                await box.images.login({**good, "password": "wrong"})
            with pytest.raises(GantryError, match="connection refused"):
                await box.images.login({**good, "serveraddress": "127.0.0.1:1"})

        served(body)

    def test_basic(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            expected = Credentials("me", "secret").basic

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.headers.get("Authorization") == expected:
                    return None
                return web.json_response(
                    {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                    status=401,
                    headers={"WWW-Authenticate": 'Basic realm="tests"'},
                )

            registry.hook = hook
            name = f"{registry.host}/x"
            with pytest.raises(
                GantryError, match=r'^Head "http://.*/x/manifests/1": no basic auth credentials$'
            ):
                await pull(box, name, "1")
            wrong = {"username": "me", "password": "x", "serveraddress": registry.host}
            with pytest.raises(Unauthorized, match=r"^unauthorized: authentication required$"):
                await pull(box, name, "1", auth=wrong)
            with pytest.raises(
                Unauthorized, match=r"^login attempt to http://.*/v2/ failed with status: 401 Unau"
            ):
                await box.images.login(wrong)
            await pull(box, name, "1", auth={"username": "me", "password": "secret"})

        served(body)

    def test_a_ready_token(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            registry.hook = lambda request: (
                None
                if request.headers.get("Authorization") == "Bearer ready" or request.path == "/v2/"
                else web.Response(status=401, headers={"WWW-Authenticate": "Bearer realm=x"})
            )
            await pull(box, f"{registry.host}/x", "1", auth={"registrytoken": "ready"})

        served(body)
