"""``node.toml`` read: tables into specs, and what is wrong with it in one line with file, table and key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from os import PathLike, fspath
from typing import Any

from vxlanfast.checks import rule_error
from vxlanfast.errors import SpecError
from vxlanfast.live_spec import LiveSpec, TapSpec
from vxlanfast.network_spec import EndpointSpec, NetworkSpec, PeerSpec, RouteSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.service_spec import MeshSpec, PublishSpec, ServerSpec, ServiceSpec, VirtualSpec

_NESTED = {
    "network": NetworkSpec, "endpoint": EndpointSpec, "peer": PeerSpec, "route": RouteSpec, "service": ServiceSpec,
    "virtual": VirtualSpec, "publish": PublishSpec, "server": ServerSpec, "tap": TapSpec,
}  # fmt: skip
#: Tables of a file that stand beside [node] and are its fields.
_BESIDE = {"network": "[[network]]", "service": "[[service]]", "mesh": "[mesh]", "live": "[live]"}
#: Of them, those that are one table.
_SINGLE: dict[str, type[Any]] = {"mesh": MeshSpec, "live": LiveSpec}
_KINDS = {"str": str, "int": int, "bool": bool}


def _words(kind: str) -> str:
    return {"str": "a text", "int": "a whole number", "bool": "true or false"}[kind]


def _value(key: str, value: Any, kind: str) -> Any:
    """``value`` as a field of that type takes it."""
    if kind.startswith("tuple"):
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise rule_error(key, value, "a text, or a list of them")
        return tuple(texts)
    if isinstance(value, list) and "tuple" in kind:
        return _value(key, value, "tuple")
    allowed = [part for part in kind.split(" | ") if part in _KINDS]
    # A TOML true is no number, whatever Python thinks.
    if not any(type(value) is _KINDS[part] for part in allowed):
        raise rule_error(key, value, " or ".join(map(_words, allowed)))
    return value


def _make(kind: type[Any], table: Mapping[str, Any], where: str) -> Any:
    """A spec out of a table of a TOML file; ``where`` is said in front of what is wrong."""
    known = {f.name: str(f.type) for f in fields(kind)}
    made = {}
    try:
        for key, value in table.items():
            if key not in known:
                raise SpecError(f"{key}: no such key; there are {', '.join(known)}")
            if key in _SINGLE and kind is NodeSpec:
                if not isinstance(value, dict):
                    raise SpecError(f"{key}: a table, [{key}]")
                made[key] = _make(_SINGLE[key], value, f"[{key}]")
            elif key in _NESTED and "Spec" in known[key]:  # a service's network is a name, a TAP's route a choice
                if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                    raise SpecError(f"{key}: a table in double brackets for each, [[{key}]]")
                made[key] = tuple(_nested(key, value))
            else:
                made[key] = _value(key, value, known[key])
        missing = [f.name for f in fields(kind) if f.name not in made and f.name in _required(kind)]
        if missing:
            raise SpecError(f"{missing[0]}: missing")
        return kind(**made)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _required(kind: type[Any]) -> set[str]:
    return {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}


def _nested(key: str, tables: list[dict[str, Any]]) -> Iterator[Any]:
    for number, table in enumerate(tables, 1):
        name = table.get("name")
        yield _make(_NESTED[key], table, f"[[{key}]] {name if isinstance(name, str) else number}")


def parse_spec(text: str, source: str = "node.toml") -> NodeSpec:
    """A node's spec out of TOML; ``source`` begins every error. SpecError: file, key, value and rule, in one line."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source}: {error}") from None
    unknown = table.keys() - {"node", *_BESIDE}
    if unknown:
        known = "[node], [mesh], [live], [[network]] and [[service]]"
        raise SpecError(f"{source}: {min(unknown)}: no such table; there are {known}")
    node = table.get("node", {})
    if not isinstance(node, dict):
        raise SpecError(f"{source}: node: a table, [node]")
    for key, shown in _BESIDE.items():
        if key in node:
            raise SpecError(f"{source}: [node]: {key}: it stands beside, as {shown}")
        if key in table:
            node = {**node, key: table[key]}
    spec: NodeSpec = _make(NodeSpec, node, source)
    return spec


def load_spec(path: str | PathLike[str]) -> NodeSpec:
    """The spec in a file. SpecError: it cannot be read, or says what cannot be."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_spec(file.read(), fspath(path))
    except OSError as error:
        raise SpecError(f"{fspath(path)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{fspath(path)}: byte {error.start} is not UTF-8") from None
