"""Query parameters."""

from __future__ import annotations

import base64

import pytest

from gantry.api import params
from gantry.model.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", {}),
        ("a", {"a": [""]}),
        ("a=1&a=2&b=x%20y+z", {"a": ["1", "2"], "b": ["x y z"]}),
        ("&&a=b=c&", {"a": ["b=c"]}),
    ],
)
def test_query(text: str, query: dict[str, list[str]]) -> None:
    assert params.parse_query(text) == query


@pytest.mark.parametrize(
    ("text", "message"),
    [("a=1;b", "invalid semicolon separator in query"), ("a=%zz", 'invalid URL escape "%zz"')],
)
def test_bad_query(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        params.parse_query(text)
    assert str(error.value) == message


@pytest.mark.parametrize("value", ["", "0", "no", "false", "none", "False", " NO "])
def test_false(value: str) -> None:
    assert not params.flag({"f": [value]}, "f", default=True)


@pytest.mark.parametrize("value", ["1", "true", "yes", "2", "off", "anything"])
def test_true(value: str) -> None:
    assert params.flag({"f": [value]}, "f")


def test_an_absent_flag_is_its_default() -> None:
    assert params.flag({}, "f", default=True)
    assert not params.flag({}, "f")


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        ("", {}),
        ('{"label":["a=b","c"]}', {"label": ["a=b", "c"]}),
        ('{"label":{"a=b":true,"c":false}}', {"label": ["a=b", "c"]}),
        ("{}", {}),
        ("null", {}),
        ('{"a":null}', {}),
    ],
)
def test_filters(value: str, decoded: dict[str, list[str]]) -> None:
    assert params.filters({"filters": [value]}) == decoded


@pytest.mark.parametrize("value", ["x", "[]", '{"a":"b"}', '{"a":[1]}', '{"a":{"b":"c"}}', '"s"'])
def test_bad_filters(value: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid filter$"):
        params.filters({"filters": [value]})


def test_integers() -> None:
    assert params.integer({"t": ["-5"]}, "t") == -5
    assert params.integer({"t": [""]}, "t") is None
    with pytest.raises(InvalidParameter, match=r'strconv.Atoi: parsing "1x": invalid syntax'):
        params.integer({"t": ["1x"]}, "t")
    with pytest.raises(InvalidParameter, match="value out of range"):
        params.integer({"t": ["9" * 30]}, "t")


@pytest.mark.parametrize(
    ("value", "problem"),
    [("", "invalid syntax"), ("x", "invalid syntax"), ("+1", "invalid syntax"),
     ("-1", "value out of range"), ("4294967296", "value out of range")],
)  # fmt: skip
def test_dimensions(value: str, problem: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        params.dimension({"h": [value]}, "h", "height")
    assert str(error.value) == f'invalid resize height "{value}": {problem}'
    assert params.dimension({"h": ["24"]}, "h", "height") == 24


def test_timestamps() -> None:
    query = {"since": ["12.5"], "bad": ["x"], "worse": ["1.x"]}
    assert params.timestamp(query, "since", "'") == "12.5"
    assert params.nanoseconds("12.5") == 12_500_000_000
    assert params.timestamp(query, "absent", "'") == ""
    with pytest.raises(InvalidParameter) as error:
        params.timestamp(query, "bad", "'")
    assert str(error.value) == (
        'invalid value for \'bad\': invalid timestamp "x": invalid seconds "x": invalid syntax'
    )
    with pytest.raises(InvalidParameter, match="invalid character 'x' at position 0"):
        params.timestamp(query, "worse", "'")


def test_platforms() -> None:
    assert params.json_platform('{"os":"linux","architecture":"arm64","variant":"v8"}') == (
        "linux/arm64/v8"
    )
    with pytest.raises(InvalidParameter, match="both OS and Architecture must be provided"):
        params.json_platform('{"os":"linux"}')
    with pytest.raises(InvalidParameter, match="failed to parse platform"):
        params.json_platform("linux/amd64")


def test_registry_auth() -> None:
    header = base64.urlsafe_b64encode(b'{"username":"u\xc3\xbf"}').decode()
    assert params.registry_auth(header) == {"username": "uÿ"}
    assert params.registry_auth(header.rstrip("=")) == {"username": "uÿ"}
    for bad in ("", "%%%", "bm90IGpzb24=", "W10="):
        assert params.registry_auth(bad) == {}
