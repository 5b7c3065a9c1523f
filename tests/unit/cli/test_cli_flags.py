"""The grammar of flags, and pflag's messages."""

from __future__ import annotations

import pytest

from gantry.cli.flags import Flag, FlagError, parse

FLAGS = (
    Flag("interactive", "", short="i"),
    Flag("tty", "", short="t"),
    Flag("rm", ""),
    Flag("sig-proxy", "", default=True),
    Flag("name", "", "string"),
    Flag("publish", "", "list", "p"),
    Flag("last", "", "int", "n", -1),
    Flag("memory", "", "bytes", "m"),
    Flag("cpus", "", "decimal"),
    Flag("health-interval", "", "duration", default=0),
    Flag("filter", "", "filter", "f"),
    Flag("network", "", "list", aliases=("net",)),
)


def test_forms_of_a_value() -> None:
    for words in (["--name", "x"], ["--name=x"]):
        assert parse(FLAGS, words)[0].text("name") == "x"
    for words in (["-p", "80"], ["-p80"], ["-p=80"]):
        assert parse(FLAGS, words)[0].many("publish") == ["80"]


def test_letters_together() -> None:
    options, rest = parse(FLAGS, ["-itp", "80", "x"])
    assert options.on("interactive")
    assert options.on("tty")
    assert options.many("publish") == ["80"]
    assert rest == ["x"]


def test_switches() -> None:
    options, _ = parse(FLAGS, ["--rm=false", "--sig-proxy=0"])
    assert not options.on("rm")
    assert not options.on("sig-proxy")
    assert options.changed("rm")
    assert parse(FLAGS, [])[0].on("sig-proxy")


def test_arguments_between_and_after() -> None:
    options, rest = parse(FLAGS, ["a", "--rm", "b", "--", "--name"])
    assert options.on("rm")
    assert rest == ["a", "b", "--name"]


def test_a_command_s_own_flags_are_left_alone() -> None:
    options, rest = parse(FLAGS, ["--rm", "image", "ls", "-i", "--"], interspersed=False)
    assert not options.on("interactive")
    assert rest == ["image", "ls", "-i", "--"]


def test_a_dash_is_an_argument() -> None:
    assert parse(FLAGS, ["-"])[1] == ["-"]


def test_kinds() -> None:
    words = ["-n", "3", "-m", "1.5g", "--cpus", "0.5", "--health-interval", "1m30s", "--net", "a"]
    options, _ = parse(FLAGS, words)
    assert options.number("last") == 3
    assert options.number("memory") == 3 << 29
    assert options.number("cpus") == 500_000_000
    assert options.number("health-interval") == 90_000_000_000
    assert options.many("network") == ["a"]


def test_filters() -> None:
    options, _ = parse(FLAGS, ["-f", "label=a=b", "-f", "label=c", "-f", "name=x"])
    assert options.filters() == {"label": ["a=b", "c"], "name": ["x"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["-ix"], "unknown shorthand flag: 'x' in -ix"),
        (["--name"], "flag needs an argument: --name"),
        (["-p"], "flag needs an argument: 'p' in -p"),
        (
            ["-n", "x"],
            'invalid argument "x" for "-n, --last" flag: strconv.ParseInt: parsing "x": '
            "invalid syntax",
        ),
        (
            ["--rm=maybe"],
            'invalid argument "maybe" for "--rm" flag: strconv.ParseBool: parsing "maybe": '
            "invalid syntax",
        ),
        (["-m", "xx"], 'invalid argument "xx" for "-m, --memory" flag: invalid size: \'xx\''),
        (
            ["-f", "x"],
            'invalid argument "x" for "-f, --filter" flag: bad format of filter '
            "(expected name=value)",
        ),
    ],
)
def test_messages(words: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(FLAGS, words)
    assert str(caught.value) == message
