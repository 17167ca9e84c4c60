"""JSON of other programs, read as if somebody had forged it.

What cannot be is a SpecError in one line which names the source, the key, the value and the rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vxlanfast.addr import format_ip, parse_ip, parse_mac
from vxlanfast.errors import SpecError

#: A program's JSON output: its text (several lists behind each other are one), or what was read from it.
Json = str | bytes | Sequence[Mapping[str, Any]]

_SPACE = re.compile(r"\s*")
_WIDEST = 60  # characters of a value that an error repeats
_LONGEST = 128  # characters of a name


def shown(value: object) -> str:
    """A value for an error's line: neither long, nor deep, nor of more than one line."""
    if isinstance(value, (Mapping, list, tuple)):
        return "{…}" if isinstance(value, Mapping) else "[…]"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    text = repr(value)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"


def is_word(value: object) -> bool:
    """Whether it is a name that can stand in a line."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable() and " " not in value


@contextmanager
def said_of(where: str) -> Iterator[None]:
    """``where`` begins every SpecError from in here."""
    try:
        yield
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object and where it stands. A null is as good as no key; every getter raises SpecError."""

    where: str
    values: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def wrong(self, key: str, rule: str) -> SpecError:
        """The error to raise for a key's value."""
        value = f" = {shown(self.values[key])}" if key in self else ""
        return SpecError(f"{self.where}: {key}{value}: {rule}")

    def _get(self, key: str, kind: type[Any], default: Any, rule: str) -> Any:
        value = self.values.get(key, default)
        if value is None and default is None:
            raise self.wrong(key, "missing")
        if value is None:
            return default
        if type(value) is not kind:  # a JSON true is no number, whatever Python thinks
            raise self.wrong(key, rule)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Any text; None as default: the key has to be there."""
        return str(self._get(key, str, default, "a text"))

    def word(self, key: str, default: str | None = None) -> str:
        """A name: it may be put into an error's line as it is."""
        word = self.text(key, default)
        if word != default and not is_word(word):
            raise self.wrong(key, f"a name, 1 to {_LONGEST} printable characters without spaces")
        return word

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        return bool(self._get(key, bool, default, "true or false"))

    def number(self, key: str, default: int | None, most: int) -> int:
        """A whole number of 0 to ``most``."""
        rule = f"a whole number, 0 to {most}"
        number = int(self._get(key, int, default, rule))
        if not 0 <= number <= most:
            raise self.wrong(key, rule)
        return number

    def address(self, key: str) -> str:
        """An IP address as Python writes it, without the prefix length that may follow."""
        text = self.text(key)
        try:
            return format_ip(parse_ip(text.partition("/")[0]))
        except SpecError:
            raise self.wrong(key, "an IPv4 or IPv6 address") from None

    def mac(self, key: str) -> str:
        """A MAC address, in small letters with colons."""
        text = self.text(key)
        try:
            return parse_mac(text).hex(":")
        except SpecError:
            raise self.wrong(key, "six pairs of hex digits, such as 02:42:c0:00:02:01") from None

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        found = self._get(key, list, [], "a list of texts")
        if not all(isinstance(text, str) for text in found):
            raise self.wrong(key, "a list of texts")
        return list(found)

    def object(self, key: str) -> Object:
        """An object, empty where there is none."""
        return Object(f"{self.where}: {key}", self._get(key, dict, {}, "an object"))

    def objects(self, key: str) -> list[Object]:
        """Those of a list, or the values of an object."""
        found = self.values.get(key)
        if not isinstance(found, dict):
            found = self._get(key, list, [], "a list or an object of objects")
            return [_object(f"{self.where}: {key}[{number}]", value) for number, value in enumerate(found)]
        return [
            _object(f"{self.where}: {key}: {name if is_word(name) else shown(name)}", value)
            for name, value in found.items()
        ]


def _object(where: str, value: object) -> Object:
    if not isinstance(value, Mapping):
        raise SpecError(f"{where}: {shown(value)}: an object")
    return Object(where, value)


def read_objects(source: str, given: object) -> list[Object]:
    """The objects of an output (see ``Json``). Empty ones are left out: ``ip -j`` has them for what it filtered."""
    if isinstance(given, (str, bytes)):
        given = list(_decoded(source, given))
    if not isinstance(given, (list, tuple)):
        raise SpecError(f"{source}: {shown(given)}: a list of objects")
    return [_object(f"{source}[{number}]", value) for number, value in enumerate(given) if value != {}]


def _decoded(source: str, given: str | bytes) -> Iterator[object]:
    decoder, at = json.JSONDecoder(), 0
    try:
        text = given.decode() if isinstance(given, bytes) else given
        while (space := _SPACE.match(text, at)) and space.end() < len(text):
            found, at = decoder.raw_decode(text, space.end())
            if not isinstance(found, list):
                raise SpecError(f"{source}: {shown(found)}: a list of objects")
            yield from found
    except SpecError:
        raise
    except UnicodeDecodeError as error:
        raise SpecError(f"{source}: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise SpecError(f"{source}: no JSON: {error}") from None
    except RecursionError:
        raise SpecError(f"{source}: objects or lists too deep in each other") from None
    except ValueError:  # Python's limit for the digits of one
        raise SpecError(f"{source}: a number is too long") from None
