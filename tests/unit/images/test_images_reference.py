"""Names as Docker reads and writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.model.errors import InvalidParameter
from gantry.oci.image_reference import parse, parse_any

HEX = "a" * 64


@pytest.mark.parametrize(
    ("given_name", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox:x", "docker.io/library/busybox:x", "busybox:x"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("a/b/c", "docker.io/a/b/c", "a/b/c"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x", "127.0.0.1:5000/x"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("ghcr.io/a/b@sha256:" + HEX, "ghcr.io/a/b@sha256:" + HEX, "ghcr.io/a/b@sha256:" + HEX),
        ("HOST/x", "HOST/x", "HOST/x"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
    ],
)
def test_normalised(given_name: str, full: str, familiar: str) -> None:
    reference = parse(given_name)
    assert str(reference) == full
    assert reference.familiar == familiar
    assert parse(full) == reference
    assert parse(familiar) == reference


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "invalid reference format"),
        ("Upper", "invalid reference format: repository name (library/Upper) must be lowercase"),
        ("a:", "invalid reference format"),
        ("a:b:c", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a@sha256:abc", "invalid reference format"),
        ("a@sha256:" + "a" * 63, "invalid checksum digest length"),
        ("a b", "invalid reference format"),
        ("../x", "invalid reference format"),
        ("a" * 256, "repository name must not be more than 255 characters"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("http://host/x", "invalid reference format"),
    ],
)
def test_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        parse(name)
    assert str(error.value) == text


def test_ids() -> None:
    assert parse_any(HEX) == "sha256:" + HEX
    assert parse_any("sha256:" + HEX) == "sha256:" + HEX
    assert parse_any("abc") == parse("abc")


def test_tags() -> None:
    assert parse("x").with_default_tag().familiar == "x:latest"
    assert parse("x@sha256:" + HEX).with_default_tag().tag == ""
    with pytest.raises(InvalidParameter):
        parse("x").with_tag("not valid")


@given(st.text(alphabet="aA0./:@-_ é[]", max_size=30))
def test_what_is_accepted_is_stable(name: str) -> None:
    try:
        reference = parse(name)
    except InvalidParameter:
        return
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference
