"""Executes a parsed template over JSON values and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from gantry.cli.template.functions import BASIC, HEADER, LAZY, NAMES, Error, Function, show, truth
from gantry.cli.template.nodes import (
    Action,
    Branch,
    Jump,
    Node,
    Operand,
    Pipeline,
    TemplateError,
    Text,
)
from gantry.cli.template.parse import parse


@runtime_checkable
class Fielded(Protocol):
    """A value with named fields that is no mapping: a row of a table.

    `field` raises KeyError for a name it does not have; a callable result is a method.
    """

    type_name: str

    def field(self, name: str) -> object: ...


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


_MISSING = object()


class Template:
    """`Template(source).execute(value)`; parsing happens once.

    `strict`: a key that a mapping does not have is an error (as in `inspect`), else it
    prints `<no value>`. `optional` names keys that may be absent even then (fields the
    API omits when empty).
    """

    def __init__(
        self,
        source: str,
        *,
        strict: bool = False,
        optional: frozenset[str] = frozenset(),
        functions: Mapping[str, Function] | None = None,
    ) -> None:
        self._extra = dict(functions or {})
        self.nodes = parse(source, NAMES | frozenset(self._extra))
        self._strict = strict
        self._optional = optional

    def execute(self, value: object, *, header: bool = False) -> str:
        """The text for one value. Raises TemplateError."""
        functions = {**(HEADER if header else BASIC), **self._extra}
        run = _Run(functions, value, self._strict, self._optional)
        run.walk(self.nodes, value)
        return "".join(run.out)


class _Run:
    def __init__(
        self,
        functions: Mapping[str, Function],
        root: object,
        strict: bool,
        optional: frozenset[str],
    ) -> None:
        self.out: list[str] = []
        self._functions = functions
        self._strict = strict
        self._optional = optional
        self._variables: list[tuple[str, object]] = [("$", root)]

    def walk(self, nodes: Sequence[Node], dot: object) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self.out.append(node.text)
            elif isinstance(node, Action):
                value = self._pipeline(node.pipe, dot)
                if not node.pipe.variables:
                    self.out.append("<no value>" if value is _MISSING else show(value))
            elif isinstance(node, Branch):
                mark = len(self._variables)
                self._branch(node, dot)
                del self._variables[mark:]
            elif isinstance(node, Jump):
                raise _Break if node.keyword == "break" else _Continue

    def _branch(self, node: Branch, dot: object) -> None:
        value = self._pipeline(node.pipe, dot, bind=node.keyword != "range")
        if value is _MISSING:
            value = None
        if node.keyword == "range":
            self._range(node, value, dot)
        elif truth(value):
            self.walk(node.body, value if node.keyword == "with" else dot)
        else:
            self.walk(node.otherwise, dot)

    def _range(self, node: Branch, value: object, dot: object) -> None:
        items: list[tuple[object, object]]
        if isinstance(value, Mapping):
            items = [(key, value[key]) for key in sorted(value, key=str)]
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            items = [(number, number) for number in range(value)]
        elif value is None:
            items = []
        else:
            raise TemplateError(f"range can't iterate over {show(value)}")
        if not items:
            self.walk(node.otherwise, dot)
        names = node.pipe.variables
        for key, item in items:
            mark = len(self._variables)
            if len(names) == 2:
                self._variables += [(names[0], key), (names[1], item)]
            elif names:
                self._variables.append((names[0], item))
            try:
                self.walk(node.body, item)
            except _Continue:
                continue
            except _Break:
                break
            finally:
                del self._variables[mark:]

    # -- values ----------------------------------------------------------------------

    def _pipeline(self, pipe: Pipeline, dot: object, *, bind: bool = True) -> object:
        value: object = _MISSING
        for number, command in enumerate(pipe.commands):
            value = self._command(command, dot, () if number == 0 else (value,))
        if bind:
            for name in pipe.variables:
                if pipe.declares:
                    self._variables.append((name, value))
                else:
                    self._assign(name, value)
        return value

    def _assign(self, name: str, value: object) -> None:
        for position in range(len(self._variables) - 1, -1, -1):
            if self._variables[position][0] == name:
                self._variables[position] = (name, value)
                return
        raise TemplateError(f'undefined variable "{name}"')

    def _command(self, command: list[Operand], dot: object, final: tuple[object, ...]) -> object:
        first = command[0]
        if first.kind == "function":
            if first.name in LAZY:
                return self._lazy(first.name, command[1:], dot, final)
            values = [self._value(operand, dot) for operand in command[1:]]
            result = self._call(self._functions[first.name], first, [*values, *final])
            return self._chain(result, first, first.names)
        arguments = command[1:]
        if not arguments and not final:
            return self._operand(first, dot)
        values = [self._value(operand, dot) for operand in arguments]
        return self._operand(first, dot, [*values, *final])

    def _lazy(
        self, name: str, operands: list[Operand], dot: object, final: tuple[object, ...]
    ) -> object:
        thunks: list[Callable[[], object]] = [
            (lambda operand=operand: self._value(operand, dot))  # type: ignore[misc] # bound now
            for operand in operands
        ]
        thunks += [lambda value=value: value for value in final]  # type: ignore[misc] # bound now
        value: object = None
        for thunk in thunks:
            value = thunk()
            if truth(value) == (name == "or"):
                break
        return value

    def _call(self, function: Function, operand: Operand, values: list[object]) -> object:
        try:
            return function(*values)
        except Error as error:
            raise self._failed(operand, str(error))
        except (TypeError, AttributeError):
            raise self._failed(
                operand, f"wrong number or type of args for {operand.name or operand.text}"
            )

    def _value(self, operand: Operand, dot: object) -> object:
        """An operand as an argument: a missing one is nil there."""
        value = self._operand(operand, dot)
        return None if value is _MISSING else value

    def _operand(
        self, operand: Operand, dot: object, arguments: list[object] | None = None
    ) -> object:
        if operand.kind == "literal":
            return operand.value
        if operand.kind == "nil":
            return None
        if operand.kind == "function":
            if operand.name in LAZY:
                return None
            return self._chain(
                self._call(self._functions[operand.name], operand, []), operand, operand.names
            )
        if operand.kind == "variable":
            base = self._variable(operand)
        elif operand.kind == "pipe" and operand.pipe:
            base = self._pipeline(operand.pipe, dot)
        else:
            base = dot
        return self._chain(base, operand, operand.names, arguments)

    def _variable(self, operand: Operand) -> object:
        for name, value in reversed(self._variables):
            if name == operand.name:
                return value
        raise TemplateError(f'template: :{operand.where}: undefined variable "{operand.name}"')

    def _chain(
        self,
        value: object,
        operand: Operand,
        names: Sequence[str],
        arguments: list[object] | None = None,
    ) -> object:
        for number, name in enumerate(names):
            given = arguments or [] if number == len(names) - 1 else []
            value = self._field(value, name, operand, given)
        return value

    def _field(self, value: object, name: str, operand: Operand, arguments: list[object]) -> object:
        if isinstance(value, Mapping):
            if name in value:
                return value[name]
            lowered = name.lower()
            for key in value:
                if isinstance(key, str) and key.lower() == lowered:
                    return value[key]
            if name in self._optional:
                return None
            if self._strict:
                raise self._failed(operand, f'map has no entry for key "{name}"')
            return _MISSING
        if isinstance(value, Fielded):
            try:
                found = value.field(name)
            except KeyError:
                raise self._failed(
                    operand, f"can't evaluate field {name} in type {value.type_name}"
                )
            return self._call(found, operand, arguments) if callable(found) else found
        if value is None or value is _MISSING:
            if self._strict:
                raise self._failed(operand, f"nil pointer evaluating interface {{}}.{name}")
            return _MISSING
        raise self._failed(operand, f"can't evaluate field {name} in type {type(value).__name__}")

    def _failed(self, operand: Operand, message: str) -> TemplateError:
        return TemplateError(
            f'template: :{operand.where}: executing "" at <{operand.text}>: {message}'
        )
