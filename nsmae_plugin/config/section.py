"""Typed sections of a configuration.

A section of the YAML file is a subclass of :class:`Section`; its fields are named as the keys. The
types of :mod:`nsmae_plugin.config.values` say in words what they expect. Every problem ends in one
line that names the key by its path in the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import MinLen
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nsmae_plugin.config.values import INT_LIMIT, Words
from nsmae_plugin.errors import ConfigError, brief

_Section = TypeVar("_Section", bound="Section")
_BUILTIN = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    bool: ("true or false", "true or false"),
    NoneType: ("null", "null"),
    Any: ("anything", "anything"),
}
LONGEST = 300  # characters of a section's own message, which may quote values
# Types of the errors below.
_KEY, _VALUE, _SECTION = "key", "value", "section"


class Section(BaseModel):
    """A section of the configuration whose keys are all known, unless a subclass allows others.

    Numbers are finite, and are neither strings nor ``true``; an integer is taken for a number.
    A validator of several keys raises ``ValueError`` with a message that continues the section's
    path: ``"XBOUND and YBOUND must have the same step"``.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @classmethod
    def of(cls: type[_Section], content: Mapping[str, Any], where: str = "") -> _Section:
        """The section with its values, defaults filled in.

        Args:
            content: as read from YAML.
            where: path of the section, for messages: ``MODEL.VTRANSFORM``.

        Raises:
            ConfigError: for an unknown or missing key, or a value that cannot be meant.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ConfigError(_first_problem(error, content, where)) from None

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, content: Any) -> Any:
        if isinstance(content, Mapping):
            for key in content:
                if key not in cls.model_fields and cls.model_config["extra"] == "forbid":
                    rest = suggest(str(key), cls.model_fields)
                    raise PydanticCustomError(
                        _KEY,
                        "{text}",
                        {"text": rest, "key": brief(str(key)), "kind": "unknown key"},
                    )
            for key, field in cls.model_fields.items():
                if field.is_required() and key not in content:
                    rest = f": expected {describe(field.annotation, field.metadata)}"
                    raise PydanticCustomError(
                        _KEY, "{text}", {"text": rest, "key": key, "kind": "missing key"}
                    )
        return content

    @field_validator("*", mode="wrap")
    @classmethod
    def _check_value(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: Any) -> Any:
        """Report the expected type of a wrong value; subsections report their own problems."""
        try:
            return handler(value)
        except ValidationError as error:
            if any(_of_section(one) for one in error.errors()):
                raise
            field = cls.model_fields[info.field_name]
            expected = describe(field.annotation, field.metadata)
            text = f"must be {expected}, not {shown(value)}{_why_a_string(value)}"
            if any(one.get("ctx", {}).get("lt") == INT_LIMIT for one in error.errors()):
                text += " (too large)"
            raise PydanticCustomError(_VALUE, "{text}", {"text": text}) from None


def _of_section(problem: Any) -> bool:
    """Return whether a section has put a problem into words."""
    own_check = problem["type"] == "value_error" and isinstance(problem["input"], Mapping)
    return own_check or problem["type"] in (_KEY, _VALUE, _SECTION)


def not_a_section(value: Any, words: Words) -> PydanticCustomError:
    """The error of a value in the place of a section with a NAME."""
    text = f"must be {words.one}"
    if not isinstance(value, Mapping):
        text += f", not {shown(value)}"
    return PydanticCustomError(_SECTION, "{text}", {"text": text})


def shown(value: Any) -> str:
    """A value in a message."""
    return repr(brief(value)) if isinstance(value, str) else brief(value)


def describe(kind: Any, metadata: Sequence[Any] = ()) -> str:
    """Words for the type of a field: ``a list of 2 positive integers``."""
    return _words(kind, metadata)[0]


def _words(kind: Any, metadata: Sequence[Any] = ()) -> tuple[str, str]:
    """Words for one value of a type, and for several."""
    for one in reversed(metadata):  # the outermost first
        words = getattr(one, "words", one)
        if isinstance(words, Words):
            return words.one, words.several or words.one.replace("a list", "lists")
    if kind in _BUILTIN:
        return _BUILTIN[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(inner[0], inner[1:])
    if origin in (Union, UnionType):
        each = [_words(one) for one in inner]
        return " or ".join(one for one, _ in each), " or ".join(many for _, many in each)
    if origin is Literal:
        words = " or ".join(map(str, inner))
        return words, words
    if origin is list:
        least = next((one.min_length for one in metadata if isinstance(one, MinLen)), 0)
        several = f"of {_words(inner[0])[1]}"
        return (f"a non-empty list {several}" if least else f"a list {several}"), f"lists {several}"
    if origin is dict:
        return f"a section of {_words(inner[1])[1]}", "sections"
    return "a section", "sections"


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def _why_a_string(value: Any) -> str:
    """Explain why ``1e-3`` is not a number, and ``[a, b]`` after ``--set`` not a list."""
    if isinstance(value, str) and value.startswith(("[", "{")):
        return " (a string; --set reads Python: names inside lists and sections need quotes)"
    try:
        float(value if isinstance(value, str) else "no")
    except ValueError:
        return ""
    return " (a string; YAML wants numbers without quotes, and a point before an exponent: 1.0e-3)"


def _first_problem(error: ValidationError, content: Any, where: str) -> str:
    """One line on the first problem; an unknown key comes before all others."""
    found = error.errors()
    one = next((e for e in found if e.get("ctx", {}).get("kind") == "unknown key"), found[0])
    path, context = _path(one["loc"], content, where), one.get("ctx", {})
    if one["type"] == _KEY:
        prefix = f"{path}." if path else ""
        return f"{context['kind']} {prefix}{context['key']}{one['msg']}"
    if one["type"] == "value_error":
        return f"{path}: {brief(context['error'], LONGEST)}"
    if one["type"] in (_VALUE, _SECTION):
        return f"{path} {one['msg']}"
    return f"{path or 'the configuration'} must be a section, not {shown(one['input'])}"


def _path(location: Sequence[int | str], content: Any, where: str) -> str:
    """The dotted path of a key; entries of lists go by their NAME, as after ``--set``."""
    path = where
    for part in location:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            continue  # pydantic's name for one of the types that a key may have
        name = content.get("NAME") if isinstance(content, Mapping) else None
        if isinstance(part, int):
            path += f".{name}" if isinstance(name, str) else f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path
