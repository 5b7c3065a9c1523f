"""Which registries are spoken to how; challenges; errors in Docker's words."""

from __future__ import annotations

import errno
import json
import socket

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import given
from hypothesis import strategies as st

from gantry.model.errors import InvalidParameter, NotFound, Unauthorized
from gantry.registry.auth import Credentials, parse_challenges, token_of
from gantry.registry.errors import RegistryError, of_pull, of_response, of_transport, parse
from gantry.registry.settings import Proxies, check_mirror, parse_settings


class TestInsecure:
    def test_loopback_always(self) -> None:
        settings = parse_settings()
        assert settings.insecure("127.0.0.1:5000")
        assert settings.insecure("127.3.2.1")
        assert settings.insecure("[::1]:5000")
        assert settings.insecure("localhost:5000", ["127.0.0.1"])
        assert not settings.insecure("example.com", ["93.184.216.34"])
        assert not settings.insecure("docker.io", ["127.0.0.1"])

    def test_by_name_and_network(self) -> None:
        settings = parse_settings(
            insecure=["reg:5000", "10.0.0.0/8", "http://old.example", "fd00::/8"]
        )
        assert settings.insecure("reg:5000")
        assert not settings.insecure("reg")
        assert settings.insecure("10.1.2.3:80")
        assert settings.insecure("name.example", ["10.9.9.9"])
        assert settings.insecure("old.example")
        assert settings.insecure("[fd00::1]:5000")

    @pytest.mark.parametrize("bad", ["ftp://x", "-x", "x-", "host:99999", "a b", "http://"])
    def test_refused(self, bad: str) -> None:
        with pytest.raises(InvalidParameter):
            parse_settings(insecure=[bad])

    def test_info(self) -> None:
        info = parse_settings(insecure=["reg:5000", "10.0.0.0/8"], mirrors=["https://m"]).info()
        assert info["InsecureRegistryCIDRs"] == ["10.0.0.0/8", "::1/128", "127.0.0.0/8"]
        assert info["IndexConfigs"]["docker.io"]["Mirrors"] == ["https://m/"]
        assert info["IndexConfigs"]["reg:5000"]["Secure"] is False


class TestMirrors:
    def test_normalised(self) -> None:
        assert check_mirror("https://mirror.example") == "https://mirror.example/"
        assert parse_settings(mirrors=["http://a", "http://a/"]).mirrors == ("http://a/",)

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("mirror.example", "no scheme specified"),
            ("ftp://x", "unsupported scheme"),
            ("https://x/?a=b", "query or fragment"),
            ("https://u:secret@x", "username/password not allowed"),
        ],
    )
    def test_refused(self, url: str, text: str) -> None:
        with pytest.raises(InvalidParameter, match=text) as error:
            check_mirror(url)
        assert "secret" not in str(error.value)


class TestProxies:
    @pytest.mark.parametrize(
        ("no_proxy", "host", "port", "proxied"),
        [
            ("", "example.com", None, True),
            ("", "localhost", 80, False),
            ("", "127.0.0.1", 80, False),
            ("example.com", "example.com", None, False),
            ("example.com", "sub.example.com", None, False),
            ("example.com", "notexample.com", None, True),
            (".example.com", "example.com", None, True),
            (".example.com", "a.example.com", None, False),
            ("example.com:80", "example.com", 443, True),
            ("10.0.0.0/8", "10.1.1.1", None, False),
            ("10.0.0.1", "10.0.0.2", None, True),
            ("*", "anything", None, False),
            (" a , b ", "b", None, False),
        ],
    )
    def test_no_proxy(self, no_proxy: str, host: str, port: int | None, proxied: bool) -> None:
        proxies = Proxies("http://p:1", "http://p:1", no_proxy)
        assert (proxies.of("https", host, port) is not None) is proxied

    def test_environment_and_configuration(self) -> None:
        environment = Proxies.of_environment({"http_proxy": "a", "HTTPS_PROXY": "b"})
        assert environment == Proxies("a", "b", "")
        assert Proxies(https="c").over(environment) == Proxies("a", "c", "")
        assert Proxies("p:3128").of("http", "x", None) == "http://p:3128"
        assert Proxies("p:3128").of("https", "x", None) is None


class TestChallenges:
    def test_bearer(self) -> None:
        [found] = parse_challenges(
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
            'scope="repository:a/b:pull,push"'
        )
        assert found.scheme == "bearer"
        assert found.parameters == {
            "realm": "https://auth.docker.io/token",
            "service": "registry.docker.io",
            "scope": "repository:a/b:pull,push",
        }

    def test_several(self) -> None:
        found = parse_challenges('Basic realm="a \\"b\\"", Bearer realm=x , service="y"')
        assert [one.scheme for one in found] == ["basic", "bearer"]
        assert found[0].parameters["realm"] == 'a "b"'
        assert found[1].parameters == {"realm": "x", "service": "y"}

    @given(st.text(max_size=100))
    def test_anything(self, text: str) -> None:
        for challenge in parse_challenges(text):
            assert challenge.scheme

    def test_credentials(self) -> None:
        assert Credentials.of_json(None) == Credentials()
        assert Credentials.of_json({"username": 1, "password": None}) == Credentials()
        assert Credentials.of_json({"auth": "dTpwOnc="}) == Credentials("u", "p:w")
        assert Credentials.of_json({"auth": "%%%"}) == Credentials()
        assert Credentials("u", "p").basic == "Basic dTpw"

    def test_tokens(self) -> None:
        assert token_of({"access_token": "t", "refresh_token": "r"}).refresh == "r"
        with pytest.raises(KeyError):
            token_of({"token": 7})


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "body", "text", "code"),
        [
            (
                401,
                {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                "unauthorized: authentication required",
                "UNAUTHORIZED",
            ),
            (
                404,
                {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]},
                "manifest unknown: manifest unknown",
                "MANIFEST_UNKNOWN",
            ),
            (
                400,
                {"errors": [{"code": "NAME_INVALID", "message": "x"}, {"code": "C"}]},
                "errors:\nname invalid: x\nunknown: unknown error\n",
                "NAME_INVALID",
            ),
            (403, None, "denied: requested access to the resource is denied", "DENIED"),
            (403, {}, "denied: {}", "DENIED"),
            (500, None, "received unexpected HTTP status: 500 Internal Server Error", ""),
            (
                401,
                {"details": "incorrect username or password"},
                "unauthorized: incorrect",
                "UNAUTHORIZED",
            ),
        ],
    )
    def test_bodies(self, status: int, body: object, text: str, code: str) -> None:
        error = of_response(status, b"" if body is None else json.dumps(body).encode())
        assert str(error).startswith(text)
        assert error.code == code

    def test_pages_and_challenges(self) -> None:
        html = of_response(404, b"<html>no</html>", {"Content-Type": "text/html"})
        assert (str(html), html.code) == ("unknown: <html>no</html>", "UNKNOWN")
        many = of_response(429, b"slow down\n", {"Content-Type": "text/plain"})
        assert (str(many), many.final) == ("toomanyrequests: slow down", True)
        for status, body in ((404, b"{}"), (403, b"no way"), (400, b"")):
            odd = of_response(status, body, {"Content-Type": "application/json"})
            assert str(odd).startswith(f"error parsing HTTP {status} response body: ")
        lost = of_response(401, b'{"error": "unauthorized"}', {"Content-Type": "application/json"})
        assert str(lost) == "unauthorized: authentication required"
        refused = of_response(
            401,
            json.dumps({"errors": [{"code": "UNAUTHORIZED"}]}).encode(),
            {"WWW-Authenticate": 'Bearer realm="http://t",error="insufficient_scope"'},
        )
        assert str(refused) == (
            "errors:\ndenied: requested access to the resource is denied\n"
            "unauthorized: authentication required\n"
        )
        assert str(of_pull(refused, "x", "x:1")) == (
            "pull access denied for x, repository does not exist or may require 'docker login':"
            " denied: requested access to the resource is denied"
        )

    @pytest.mark.parametrize(
        "body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"errors":3}', b"9" * 5000]
    )
    def test_bombs(self, body: bytes) -> None:
        assert str(of_response(400, body, {"Content-Type": "application/json"}))
        assert not parse(body).get("a")

    def test_connections_that_fail(self) -> None:
        def said(error: type[aiohttp.ClientConnectorError], cause: OSError) -> str:
            key = ConnectionKey._make(["localhost", 1, *[None] * (len(ConnectionKey._fields) - 2)])
            return str(of_transport(error(key, cause), "GET", "http://localhost:1/v2/"))

        refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 1, 0, 0)")
        start = 'Get "http://localhost:1/v2/": dial tcp'
        dial = aiohttp.ClientConnectorError
        assert said(dial, refused) == f"{start} [::1]:1: connect: connection refused"
        unreachable = OSError(errno.ENETUNREACH, "Network is unreachable")
        assert said(dial, unreachable) == f"{start} localhost:1: connect: network is unreachable"
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        lookup = aiohttp.ClientConnectorDNSError
        assert said(lookup, unknown) == f"{start}: lookup localhost: no such host"
        silent = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        assert said(lookup, silent) == (
            f"{start}: lookup localhost: Temporary failure in name resolution"
        )

    @given(st.integers(400, 599), st.binary(max_size=200))
    def test_any_body(self, status: int, body: bytes) -> None:
        assert str(of_response(status, body))

    def test_pull_texts(self) -> None:
        def said(code: str, text: str) -> str:
            return str(of_pull(RegistryError(text, code), "x/y", "x/y:z"))

        assert said("DENIED", "denied: no") == (
            "pull access denied for x/y, repository does not exist or may require"
            " 'docker login': denied: no"
        )
        assert said("MANIFEST_UNKNOWN", "m") == "manifest for x/y:z not found: m"
        assert said("NAME_UNKNOWN", "n") == "repository x/y not found: n"
        assert isinstance(of_pull(RegistryError("u", "UNAUTHORIZED"), "a", "a"), Unauthorized)
        assert isinstance(of_pull(RegistryError("u", "DENIED"), "a", "a"), NotFound)
