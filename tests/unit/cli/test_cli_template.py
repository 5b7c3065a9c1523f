"""Go templates: what --format can say, checked against what Go prints."""

from __future__ import annotations

import pytest

from gantry.cli.template.execute import Template
from gantry.cli.template.nodes import TemplateError

VALUE = {
    "Name": "/web",
    "State": {"Running": True, "Pid": 42, "Health": None},
    "Config": {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a": "1"}, "Cmd": []},
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": None},
    "Size": 1234567890,
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{.Name}}", "/web"),
        ("{{ .State.Pid }}", "42"),
        ("{{.State}}", "map[Health:<nil> Pid:42 Running:true]"),
        ("{{.Config.Env}}", "[A=1 B=2]"),
        ("{{json .Config.Labels}}", '{"b":"2","a":"1"}'),
        ("{{.Size}}", "1234567890"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
        ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=2;"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "a:1 b:2 "),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if not .State.Running}}a{{else if eq .State.Pid 42}}b{{else}}c{{end}}", "b"),
        ("{{with .State}}{{.Pid}}{{end}}", "42"),
        ("{{with .Config.Cmd}}x{{else}}y{{end}}", "y"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ('{{(index .Ports "80/tcp" 0).HostPort}}', "8080"),
        (
            "{{range $p, $c := .Ports}}{{$p}}{{range $c}} -> {{.HostPort}}{{end}} {{end}}",
            "53/udp 80/tcp -> 8080 ",
        ),
        ('{{index .Config.Labels "a"}}', "1"),
        ('{{join .Config.Env ","}}', "A=1,B=2"),
        ('{{.Name | printf "%q"}}', '"/web"'),
        ('{{printf "%-6s|%5d|%v" "ab" 3 .State.Running}}', "ab    |    3|true"),
        ("{{slice .Name 1}}", "web"),
        ('{{upper "a"}}{{lower "B"}}{{title "cd"}}', "AbCd"),
        ('{{pad "a" 1 2}}|', " a  |"),
        ('{{truncate "abcdef" 3}}', "abc"),
        ('{{index (split "a:b" ":") 1}}', "b"),
        ("{{len .Config.Env}}", "2"),
        ("{{if and .State.Running (gt .State.Pid 1)}}y{{end}}", "y"),
        ("{{if or .State.Health .Name}}y{{end}}", "y"),
        ("{{eq .Name `a` `/web`}}", "true"),
        ("a {{- .State.Pid -}} b", "a42b"),
        ("{{/* nothing */}}x{{- /* either */ -}} y", "xy"),
        ("{{$x := .State.Pid}}{{$x}}{{$x = 1}}{{$x}}", "421"),
        ("{{range .Config.Env}}{{if eq . `B=2`}}{{break}}{{end}}{{.}}{{end}}", "A=1"),
        ("{{'a'}}", "97"),
        ('{{"\\t\\u00e4"}}', "\tä"),
        ("{{html `<a>`}}", "&lt;a&gt;"),
        ("{{.config.env}}", "[A=1 B=2]"),
    ],
)
def test_text(source: str, text: str) -> None:
    assert Template(source).execute(VALUE) == text


def test_absent_keys() -> None:
    assert Template("{{.Nope}}").execute(VALUE) == "<no value>"
    assert Template("{{.Nope.Deeper}}").execute(VALUE) == "<no value>"
    optional = frozenset({"Healthcheck"})
    strict = Template("{{if .Healthcheck}}y{{else}}n{{end}}", strict=True, optional=optional)
    assert strict.execute(VALUE) == "n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{foo}}", 'template: :1: function "foo" not defined'),
        ("{{.ID", "template: :1: unclosed action"),
        ("{{if .A}}", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("a\n{{nope}}", 'template: :2: function "nope" not defined'),
        ("{{}}", "template: :1: missing value for command"),
        ('{{"a}}', "template: :1: unterminated quoted string"),
        ("{{(.A}}", "template: :1: unclosed left paren"),
    ],
)
def test_mistakes_are_told_as_go_tells_them(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("{{.Nope}}", 'executing "" at <.Nope>: map has no entry for key "Nope"'),
        ("{{index .Config.Env 9}}", "index out of range: 9"),
        ("{{index .Name 0 1}}", "can't index item of type"),
        ("{{eq .Name 1}}", "incompatible types for comparison"),
        ("{{len 3}}", "len of type int"),
        ("{{upper 3}}", "wrong number or type of args"),
        ("{{.Name.X}}", "can't evaluate field X"),
        ("{{range .State.Running}}{{end}}", "range can't iterate over true"),
    ],
)
def test_failures(source: str, part: str) -> None:
    with pytest.raises(TemplateError, match=r"template|range") as caught:
        Template(source, strict=True).execute(VALUE)
    assert part in str(caught.value)
