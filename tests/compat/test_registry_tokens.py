"""Debian's docker-registry that believes a token server of ours: bearer tokens for anonymous
users, for passwords, and for identity tokens, with us as the client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.support.imagebox import ImageBox, collect, docker_archive, layer
from tests.support.registries import DebianRegistry

from gantry.model.errors import GantryError, NotFound, Unauthorized

Json = dict[str, Any]

BASE = layer({"etc": None, "etc/os": "base"})
PASSWORD = {"username": "me", "password": "secret"}
IDENTITY = {"username": "me", "identitytoken": "i-am-me"}


class TokenServer:
    """Docker's token protocol (distribution `docs/spec/auth`). Anybody may pull what is below
    `public/`; `me` may do everything. `asked`: (method, scopes) of each request; `answer`: said
    instead, as status and body."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._make_key()
        self.asked: list[tuple[str, list[str]]] = []
        self.answer: tuple[int, str] | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.get(self, parse_qs(urlsplit(self.path).query))

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                outer.post(self, parse_qs(self.rfile.read(size).decode()))

            def log_message(self, *arguments: object) -> None:
                """Not on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def get(self, handler: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        scopes = query.get("scope", [])
        self.asked.append(("GET", scopes))
        scheme, _, rest = handler.headers.get("Authorization", "").partition(" ")
        user = ""
        if scheme == "Basic":
            user, _, password = base64.b64decode(rest).decode().partition(":")
            if (user, password) != ("me", "secret"):
                self._say(handler, 401, {"details": "incorrect username or password"})
                return
        document = {"token": self._token(user, scopes), "expires_in": 300}
        if user and query.get("offline_token") == ["true"]:
            document["refresh_token"] = "i-am-me"
        self._say(handler, 200, document)

    def post(self, handler: BaseHTTPRequestHandler, form: dict[str, list[str]]) -> None:
        scopes = " ".join(form.get("scope", [])).split()
        self.asked.append(("POST", scopes))
        if form["grant_type"] != ["refresh_token"] or form["refresh_token"] != ["i-am-me"]:
            self._say(handler, 401, {"details": "who are you"})
            return
        self._say(handler, 200, {"access_token": self._token("me", scopes), "expires_in": 300})

    def _say(self, handler: BaseHTTPRequestHandler, status: int, document: Json) -> None:
        body = json.dumps(document).encode()
        if self.answer is not None:
            status, text = self.answer
            body = text.encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _token(self, user: str, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            granted = actions.split(",")
            if not user:
                granted = ["pull"] if name.startswith("public/") else []
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": "tests",
            "sub": user,
            "aud": "registry",
            "iat": now - 5,
            "nbf": now - 5,
            "exp": now + 300,
            "jti": str(len(self.asked)),
            "access": access,
        }
        head = {"typ": "JWT", "alg": "RS256", "x5c": [self._certificate()]}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._folder / "token.key"],
            input=signed.encode(),
            capture_output=True,
            check=True,
        )
        return f"{signed}.{_encoded(signature.stdout)}"

    def _make_key(self) -> None:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=tests", "-keyout", str(self._folder / "token.key")),
                *("-out", str(self.authority)),
            ],
            check=True,
            capture_output=True,
        )

    @property
    def authority(self) -> Path:
        """Whom the registry has to believe."""
        return self._folder / "token.crt"

    def _certificate(self) -> str:
        lines = self.authority.read_text().splitlines()
        return "".join(line for line in lines if not line.startswith("-"))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TokenServer, str]]:
    """The token server, and host:port of the registry."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tokens")
    with contextlib.ExitStack() as scope:
        server = TokenServer(folder)
        scope.callback(server.stop)
        token = {
            "realm": server.url,
            "service": "registry",
            "issuer": "tests",
            "rootcertbundle": str(server.authority),
        }
        registry = scope.enter_context(DebianRegistry(folder / "registry", token=token))
        yield server, registry.host


@pytest.fixture
def tokens(served: tuple[TokenServer, str]) -> Iterator[TokenServer]:
    server, _ = served
    server.asked.clear()
    yield server
    server.answer = None


@pytest.fixture
def host(served: tuple[TokenServer, str]) -> str:
    return served[1]


def in_box(root: Path, body: Callable[[ImageBox], Awaitable[None]]) -> None:
    async def main() -> None:
        async with ImageBox(root, "vfs") as box:
            await box.load(docker_archive([BASE], ["a"]))
            await body(box)

    asyncio.run(main())


async def push(box: ImageBox, name: str, auth: Json | None = None) -> list[Json]:
    await box.images.tag("a", name, "1")
    return await collect(box.images.push(name, tag="1", platform="", auth=auth or {}))


async def pull(box: ImageBox, name: str, auth: Json | None = None) -> list[Json]:
    await box.images.remove(f"{name}:1", force=True, noprune=False)
    return await collect(box.images.pull(name, tag="1", platform="", auth=auth or {}))


def test_login(tokens: TokenServer, host: str, tmp_path: Path) -> None:
    async def body(box: ImageBox) -> None:
        answer = await box.images.login({**PASSWORD, "serveraddress": host})
        assert answer == {"Status": "Login Succeeded", "IdentityToken": "i-am-me"}
        assert (await box.images.login({**IDENTITY, "serveraddress": host}))["Status"]
        for wrong in ({"password": "wrong"}, {"identitytoken": "wrong"}):
            with pytest.raises(Unauthorized, match=r'/v2/": unauthorized: (incorrect|who are)'):
                await box.images.login({**PASSWORD, **wrong, "serveraddress": host})

    in_box(tmp_path, body)


def test_who_may_what(tokens: TokenServer, host: str, tmp_path: Path) -> None:
    async def body(box: ImageBox) -> None:
        for who, secret in (("by-password", PASSWORD), ("by-identity", IDENTITY)):
            name = f"{host}/{who}/app"
            with pytest.raises(
                GantryError,
                match="denied: requested access to the resource is denied",
            ):
                await push(box, name)
            await push(box, name, secret)
            with pytest.raises(NotFound) as error:
                await pull(box, name)
            assert str(error.value) == (
                f"pull access denied for {name}, repository does not exist or may require"
                " 'docker login': denied: requested access to the resource is denied"
            )
            await push(box, name, secret)
            await pull(box, name, secret)
        assert {method for method, _ in tokens.asked} == {"GET", "POST"}

    in_box(tmp_path, body)


def test_public_and_mounted(tokens: TokenServer, host: str, tmp_path: Path) -> None:
    """A blob is mounted by one token for both repositories; anybody may pull."""

    async def body(box: ImageBox) -> None:
        await push(box, f"{host}/from/app", PASSWORD)
        tokens.asked.clear()
        messages = await push(box, f"{host}/public/app", PASSWORD)
        assert "Mounted from from/app" in [message.get("status") for message in messages]
        both = ["repository:from/app:pull", "repository:public/app:pull,push"]
        assert ("GET", both) in tokens.asked
        tokens.asked.clear()
        await pull(box, f"{host}/public/app")
        assert tokens.asked == [("GET", ["repository:public/app:pull"])], "one token is enough"

    in_box(tmp_path, body)


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, '{"errors": [{"Code":"UNAUTHORIZED", "message": "a message"}]}', "a message"),
        (401, '{"error": "unauthorized"}', "unauthorized: authentication required"),
        (429, '{"errors": [{"code":"TOOMANYREQUESTS","message":"none left"}]}', "none left"),
        (403, "no way", "error parsing HTTP 403 response body: "),
        (200, '{"something": "wrong"}', "server did not include a token in the response"),
        (200, "[" * 10_000, "server did not include a token in the response"),
    ],
)
def test_a_token_server_that_fails(
    tokens: TokenServer, host: str, tmp_path: Path, status: int, body: str, text: str
) -> None:
    """As moby's own tests have it; and nothing of it is tried again."""
    tokens.answer = (status, body)

    async def fails(box: ImageBox) -> None:
        with pytest.raises(GantryError) as error:
            await push(box, f"{host}/x")
        assert text in str(error.value)
        assert len(tokens.asked) <= 3

    in_box(tmp_path, fails)
