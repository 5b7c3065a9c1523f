"""Tables, columns, sizes and times."""

from __future__ import annotations

import json

import pytest

from gantry.cli import units
from gantry.cli.commands.listing import COLUMNS, TABLE, Item
from gantry.cli.commands.stats import cpu_percent, memory
from gantry.cli.table import align, ellipsis, render, short_id
from gantry.cli.template.nodes import TemplateError

RAW = {
    "Id": "2b81f9376f3e0e88f60d5cd38a15c0e2da6d8e1b75516b7f065d29838fe3adf7",
    "Names": ["/other/alias", "/web"],
    "Image": "busybox",
    "ImageID": "sha256:f27ae397c1da",
    "Command": "sh -c 'while true; do sleep 1; done'",
    "Created": 0,
    "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp", "IP": "0.0.0.0"}],
    "State": "running",
    "Status": "Up 5 minutes (healthy)",
    "Labels": {"b": "2", "a": "1"},
    "Mounts": [{"Name": "a-long-volume-name", "Driver": "local"}],
    "NetworkSettings": {"Networks": {"bridge": {}}},
}


def test_a_column_is_as_wide_as_its_widest_cell() -> None:
    assert align(["A\tB", "longer-than-ten\tx"]) == ("A                 B\nlonger-than-ten   x\n")


def test_a_short_column_has_a_least_width() -> None:
    assert align(["A\tB", "a\tb"]) == "A         B\na         b\n"


def test_a_line_without_the_column_ends_its_block() -> None:
    assert align(["aaaaaaaaaaaa\tb", "no cells", "c\td"]) == (
        "aaaaaaaaaaaa   b\nno cells\nc         d\n"
    )


def test_default_table() -> None:
    header, line = render(COLUMNS, [Item(RAW, True)], TABLE).splitlines()
    assert header.split() == [
        "CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"
    ]  # fmt: skip
    assert line.startswith('2b81f9376f3e   busybox   "sh -c \'while true; …"')
    assert line.endswith("0.0.0.0:8080->80/tcp   web")


def test_header_of_functions_and_methods() -> None:
    text = render(COLUMNS, [Item(RAW, True)], 'table {{upper .Names}}\\t{{.Label "a"}}')
    assert text == "NAMES     a\nWEB       1\n"


def test_json_lines() -> None:
    row = json.loads(render(COLUMNS, [Item(RAW, True)], "json"))
    assert list(row) == sorted(row)
    assert row["ID"] == "2b81f9376f3e"
    assert row["Labels"] == "a=1,b=2"
    assert row["Mounts"] == "a-long-volume-…"
    assert row["LocalVolumes"] == "1"
    assert row["HealthStatus"] == "healthy"
    assert row["Platform"] is None


def test_unknown_column() -> None:
    with pytest.raises(TemplateError) as caught:
        render(COLUMNS, [Item(RAW, True)], "{{.Foo}}")
    assert str(caught.value) == (
        'failed to execute template: template: :1:2: executing "" at <.Foo>: '
        "can't evaluate field Foo in type *formatter.ContainerContext"
    )


def test_no_trunc() -> None:
    text = render(COLUMNS, [Item(RAW, False)], "{{.ID}} {{.Names}}")
    assert text == f"{RAW['Id']} other/alias,web\n"


def test_short_texts() -> None:
    assert short_id("sha256:0123456789abcdef") == "0123456789ab"
    assert ellipsis("abc", 3) == "abc"
    assert ellipsis("abcd", 3) == "ab…"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_981_234, "1.98MB"), (123_456_789, "123MB")],
)
def test_sizes_of_three_digits(size: int, text: str) -> None:
    assert units.human_size(size, 3) == text


def test_other_sizes() -> None:
    assert units.human_size(2_138_112) == "2.138MB"
    assert units.binary_size(25_275_000_000) == "23.54GiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3500, "58 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (61 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("64", 64), ("1k", 1024), ("1.5M", 3 << 19), ("2GB", 2 << 30), ("1gib", 1 << 30), ("7b", 7)],
)
def test_bytes(text: str, size: int) -> None:
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1k", "1q", "nan", "b"])
def test_bytes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        units.parse_bytes(text)


@pytest.mark.parametrize("text", ["", "5", "1x", "s", "1.2.3s", "h1"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="time: "):
        units.parse_duration(text)


def test_processor_share() -> None:
    sample = {
        "cpu_stats": {
            "cpu_usage": {"total_usage": 600}, "system_cpu_usage": 2000, "online_cpus": 2
        },
        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
    }  # fmt: skip
    assert cpu_percent(sample) == 100.0
    assert cpu_percent({}) == 0.0


def test_page_cache_is_no_memory_in_use() -> None:
    stats = {"usage": 100, "limit": 1000, "stats": {"inactive_file": 40}}
    assert memory({"memory_stats": stats}) == (60, 1000)
