"""Bodies decoded as Go decodes them. The texts are what dockerd answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, json

from gantry.api import gojson
from gantry.api.goscan import syntax_error
from gantry.model.container import ContainerConfig, ExecCreate, HostConfig
from gantry.model.errors import InvalidParameter


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "invalid JSON: got EOF while reading request body"),
        (b"  \n", "invalid JSON: got EOF while reading request body"),
        (b"{", "invalid JSON: unexpected EOF"),
        (b'{"a"', "invalid JSON: unexpected EOF"),
        (b'{"a":', "invalid JSON: unexpected EOF"),
        (b'{"a":1', "invalid JSON: unexpected EOF"),
        (b'{"a":"x', "invalid JSON: unexpected EOF"),
        (b"[1,", "invalid JSON: unexpected EOF"),
        (b"tru", "invalid JSON: unexpected EOF"),
        (b"nope", "invalid JSON: invalid character 'o' in literal null (expecting 'u')"),
        (b"<html>", "invalid JSON: invalid character '<' looking for beginning of value"),
        (b"\xef\xbb\xbf{}", "invalid JSON: invalid character 'ï' looking for beginning of value"),
        (b"'a'", r"invalid JSON: invalid character '\'' looking for beginning of value"),
        (
            b"{a:1}",
            "invalid JSON: invalid character 'a' looking for beginning of object key string",
        ),
        (
            b'{"a":1,}',
            "invalid JSON: invalid character '}' looking for beginning of object key string",
        ),
        (b'{"a" 1}', "invalid JSON: invalid character '1' after object key"),
        (b'{"a":1 "b":2}', "invalid JSON: invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid JSON: invalid character '2' after array element"),
        (b"[1,]", "invalid JSON: invalid character ']' looking for beginning of value"),
        (b'"\\x"', "invalid JSON: invalid character 'x' in string escape code"),
        (b'"\\u12g4"', r"invalid JSON: invalid character 'g' in \u hexadecimal character escape"),
        (b'"a\nb"', r"invalid JSON: invalid character '\n' in string literal"),
        (b"-a", "invalid JSON: invalid character 'a' in numeric literal"),
        (b"1.x", "invalid JSON: invalid character 'x' after decimal point in numeric literal"),
        (b"1ex", "invalid JSON: invalid character 'x' in exponent of numeric literal"),
        (b"{}x", "unexpected content after JSON"),
        (b"{}{}", "unexpected content after JSON"),
        (b"[" * 20000, "invalid JSON: exceeded max depth"),
    ],
)
def test_bad_json(body: bytes, message: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        gojson.parse(body)
    assert str(error.value) == message


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_an_error_of_the_taxonomy(body: bytes) -> None:
    try:
        gojson.parse(body)
    except InvalidParameter as error:
        assert str(error)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_the_scanner_agrees_with_the_parser_on_documents(value: object) -> None:
    assert syntax_error(json.encode(value).decode()) == ""


@given(st.text(alphabet='{}[]",:0123456789.eE-+truefalsn \\u', max_size=24))
def test_the_scanner_agrees_with_the_parser_on_noise(text: str) -> None:
    try:
        json.decode(text)
        well_formed = True
    except ValueError:
        well_formed = False
    if not text.strip():
        return
    assert well_formed == (syntax_error(text) == "") or "\\u" in text


@pytest.mark.parametrize(
    ("body", "value", "where", "kind"),
    [
        ("[]", "array", "", "HostConfig"),
        ('"x"', "string", "", "HostConfig"),
        ('{"Memory":"1g"}', "string", "HostConfig.Memory", "int64"),
        ('{"Memory":1.5}', "number 1.5", "HostConfig.Memory", "int64"),
        (f'{{"Memory":{1 << 63}}}', "number 9223372036854775808", "HostConfig.Memory", "int64"),
        ('{"Privileged":"yes"}', "string", "HostConfig.Privileged", "bool"),
        ('{"Privileged":1}', "number", "HostConfig.Privileged", "bool"),
        ('{"Binds":{"a":1}}', "object", "HostConfig.Binds", "[]string"),
        ('{"Binds":[1]}', "number", "HostConfig.Binds", "string"),
        ('{"RestartPolicy":{"Name":3}}', "number", "RestartPolicy.RestartPolicy.Name", "string"),
        ('{"PortBindings":[]}', "array", "HostConfig.PortBindings", "map[string][]PortBinding"),
        ('{"OomKillDisable":"x"}', "string", "HostConfig.OomKillDisable", "bool"),
    ],
)
def test_wrong_types(body: str, value: str, where: str, kind: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        gojson.decode(body.encode(), HostConfig)
    place = f"Go struct field {where}" if where else "Go value"
    assert str(error.value) == (
        f"invalid JSON: json: cannot unmarshal {value} into {place} of type {kind}"
    )


def test_names_match_without_case_and_the_last_wins() -> None:
    host = gojson.decode(b'{"memory":1,"MEMORY":2,"Unknown":{"x":[]},"nanocpus":3}', HostConfig)
    assert (host.memory, host.nano_cpus) == (2, 3)


def test_null_is_absent_for_every_type() -> None:
    fields = dict.fromkeys(("Memory", "Binds", "LogConfig", "Privileged", "Init", "Mounts"))
    host = gojson.decode(json.encode(fields), HostConfig)
    assert host == HostConfig()
    config = gojson.decode(b'{"Healthcheck":null,"ExposedPorts":null,"Cmd":null}', ContainerConfig)
    assert config.healthcheck is UNSET
    assert gojson.decode(b"null", HostConfig) == HostConfig()


def test_null_inside_lists_and_maps_is_the_zero_value() -> None:
    config = gojson.decode(b'{"Env":["a",null],"Labels":{"k":null}}', ContainerConfig)
    assert config.env == ["a", ""]
    assert config.labels == {"k": ""}
    host = gojson.decode(b'{"PortBindings":{"80/tcp":null}}', HostConfig)
    assert host.port_bindings == {"80/tcp": None}


def test_a_string_is_a_command_of_one_word() -> None:
    assert gojson.decode(b'{"Cmd":"sh"}', ContainerConfig).cmd == ["sh"]
    with pytest.raises(InvalidParameter, match=r"cannot unmarshal string into .*Env of type"):
        gojson.decode(b'{"Env":"A=b"}', ContainerConfig)


def test_unsigned_numbers() -> None:
    body = b'{"BlkioWeightDevice":[{"Path":"/x","Weight":%d}]}'
    found = gojson.decode(body % 10, HostConfig).blkio_weight_device
    assert found is not None
    assert found[0].weight == 10
    with pytest.raises(InvalidParameter, match=r"number -1 into .*Weight of type uint64"):
        gojson.decode(body % -1, HostConfig)


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert gojson.decode(b'{"User":"a\xff"}', ExecCreate).user == "a\ufffd"


def test_canonical_keeps_what_was_given() -> None:
    document = gojson.parse(b'{"memory":0,"PidsLimit":null,"X":1}')
    assert gojson.canonical(document, HostConfig) == {"Memory": 0}
    assert gojson.canonical(None, HostConfig) == {}
    with pytest.raises(InvalidParameter, match="cannot unmarshal array into Go value"):
        gojson.canonical([], HostConfig)


def test_has_field() -> None:
    assert gojson.has_field({"image": "a"}, ContainerConfig)
    assert not gojson.has_field({"HostConfig": {}}, ContainerConfig)
    assert not gojson.has_field({"Image": None}, ContainerConfig)
