"""Base of every config: frozen, validated where it is written, templated, mergeable."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from airflow_distrib.core import names
from airflow_distrib.core.callers import raises_at_caller, warn
from airflow_distrib.core.errors import ConfigError

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound="Config")
Number = TypeVar("Number", int, float)
Check = Callable[[str, object], object]


def is_template(value: object) -> bool:
    """True for what only gets its value at run time: Jinja text, or an upstream's XCom."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return is_reference(value)


def is_reference(value: object) -> bool:
    """True for an upstream task's output (Airflow's XComArg), known by its shape."""
    return hasattr(value, "iter_references") and hasattr(value, "resolve")


def holds_template(value: object) -> bool:
    """True for a template, and for plain containers with one anywhere inside."""
    if isinstance(value, Mapping):
        return any(map(holds_template, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_template, value))
    return is_template(value)


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Config:
    """A frozen dataclass with keyword arguments that checks itself.

    Subclasses declare fields, a ``checks`` table (field name to a function that returns
    the normal form of a value or raises :class:`ConfigError`) and, for rules that span
    fields, ``check_together``. Templated values are passed over until they are rendered.
    Fields named in ``literal`` are never templates: scripts whose braces are the shell's.
    ``renamed`` has the new names of old fields, ``elsewhere`` what to say about names that
    belong somewhere else, ``sizes`` the fields, also of nested configs, that say how large a job is.
    """

    checks: ClassVar[Mapping[str, Check]] = {}
    literal: ClassVar[frozenset[str]] = frozenset()
    renamed: ClassVar[Mapping[str, str]] = {}
    elsewhere: ClassVar[Mapping[str, str]] = {}
    sizes: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        cls.__init__ = _met(cls.__init__)  # type: ignore[method-assign] # the dataclass's own

    def __post_init__(self) -> None:
        for name, check in self.checks.items():
            value = getattr(self, name)
            if value is None:
                if "None" not in str(self.__dataclass_fields__[name].type):  # type: ignore[attr-defined]
                    raise ConfigError(name, "must not be None; leave it out for its default")
            elif name in self.literal or not is_template(value):
                object.__setattr__(self, name, check(name, value))
        if not any(is_template(value) for name, value in self.values().items() if name not in self.literal):
            self.check_together()

    def check_together(self) -> None:
        """Rules that span fields; runs when no field is a template."""

    @classmethod
    def _known(cls, values: Mapping[str, object]) -> dict[str, object]:
        """The values by the names of today."""
        known = names.fields_of(cls)
        for name in values:
            if name not in known and name not in cls.renamed:
                raise ConfigError(f"{cls.__name__}.{name}", names.about_field(cls, name))
        for old in cls.renamed.keys() & values.keys():
            new = cls.renamed[old]
            warn(f"{cls.__name__}.{old} is deprecated; use {new}", DeprecationWarning)
            if new in values:
                raise ConfigError(old, f"is the deprecated name of {new}; set only one of them")
        return {cls.renamed.get(name, name): value for name, value in values.items()}

    def values(self) -> dict[str, Any]:
        """Field names and their values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    @raises_at_caller
    def from_mapping(cls, values: object) -> Self:
        """Make a config from plain values, such as an upstream task's XCom.

        Raises:
            ConfigError: an unknown field, or a value that cannot work.
        """
        if isinstance(values, cls):
            return values
        if not isinstance(values, Mapping):
            raise ConfigError(cls.__name__, f"must be of type {cls.__name__} or a mapping; got {values!r}")
        return cls(**{str(name): value for name, value in values.items()})

    @raises_at_caller
    def merged(self, overrides: Mapping[str, object]) -> Self:
        """A copy with some fields replaced; a mapping for a nested config is merged into it."""
        changes = {}
        for name, value in self._known(overrides).items():
            current = getattr(self, name)
            nested = isinstance(current, Config) and isinstance(value, Mapping)
            changes[name] = inside(name, type(current), current.merged, value) if nested else value
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def mapped(self, change: Callable[[Any], Any]) -> Self:
        """A copy whose every value went through ``change``; nested configs are handed to it whole."""
        changed = {}
        for name, value in self.values().items():
            if isinstance(value, Config):
                changed[name] = inside(name, type(value), change, value)
            else:
                changed[name] = value if name in self.literal else change(value)
        return type(self)(**changed)

    def templates(self) -> list[str]:
        """Dotted names of the fields that only get their values at run time."""
        found = []
        for name, value in self.values().items():
            if name in self.literal:
                continue
            if isinstance(value, Config):
                found += [f"{name}.{inner}" for inner in value.templates()]
            elif holds_template(value):
                found.append(name)
        return found

    def plain(self) -> dict[str, Any]:
        """The mapping from which :meth:`from_mapping` makes this config; templates and references stay."""
        values = {name: value for name, value in self.values().items() if value is not None}
        return {name: value.plain() if isinstance(value, Config) else value for name, value in values.items()}

    def serialize(self) -> dict[str, Any]:
        """Plain values of the fields that differ from their defaults, for Airflow's *Rendered Template* view."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: _plain(value) for name, value in self.values().items() if value != defaults[name]}


def _met(init: Callable[..., None]) -> Callable[..., None]:
    """An ``__init__`` that meets a mistyped or positional argument with the names that exist."""

    @functools.wraps(init)
    def init_by_name(self: Config, *args: object, **values: object) -> None:
        if args:
            who = type(self).__name__
            raise ConfigError(who, f"takes keyword arguments only; write {who}(field=...)")
        init(self, **self._known(values))

    return raises_at_caller(init_by_name)


def _plain(value: object) -> object:
    if isinstance(value, Config):
        return value.serialize()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if is_reference(value) else value


def of(kind: type[ConfigT]) -> Callable[[str, object], ConfigT]:
    """Check for a nested config: an instance, or a mapping to make one from."""

    def check(name: str, value: object) -> ConfigT:
        return inside(name, kind, kind.from_mapping, value)

    check.kind = kind  # type: ignore[attr-defined] # read where a misplaced field is met
    return check


def inside(name: str, kind: type[Config], make: Callable[[Any], T], value: object) -> T:
    """Make a nested config; its errors begin with the outer field's name, which the reader knows."""
    try:
        return make(value)
    except ConfigError as error:
        field = error.field.removeprefix(f"{kind.__name__}.")
        raise ConfigError(name if field == kind.__name__ else f"{name}.{field}", error.problem) from None


def whole(least: int = 0, most: int | None = None) -> Callable[[str, object], int]:
    """Check for a whole number, also as text, which is what a rendered template is."""

    def check(name: str, value: object) -> int:
        number = _number(int, value)
        if number is None or isinstance(value, float) or number < least or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigError(name, f"must be a whole number, {bounds}; got {value!r}")
        return number

    return check


def seconds(above: float = 0.0) -> Callable[[str, object], float]:
    """Check for a duration in seconds, more than ``above``."""

    def check(name: str, value: object) -> float:
        number = _number(float, value)
        if number is None or not above < number < float("inf"):
            raise ConfigError(name, f"must be a number of seconds above {above:g}; got {value!r}")
        return number

    return check


def _number(kind: type[Number], value: object) -> Number | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return kind(value)
    except (ValueError, OverflowError):
        return None


def flag(name: str, value: object) -> bool:
    """Check for true or false, also as rendered text."""
    known = {True: True, False: False, "true": True, "false": False}
    plain = value.lower() if isinstance(value, str) else value
    if not isinstance(value, bool | str) or plain not in known:
        raise ConfigError(name, f"must be True or False; got {value!r}")
    return known[plain]


def text(name: str, value: object) -> str:
    """Check for text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(name, f"must be text that is not empty; got {value!r}")
    return value


def one_of(*allowed: str) -> Callable[[str, object], str]:
    """Check for one of some words."""

    def check(name: str, value: object) -> str:
        if value not in allowed:
            hint = names.did_you_mean(value, allowed)
            raise ConfigError(name, f"must be one of {', '.join(allowed)}; got {value!r}{hint}")
        return str(value)

    return check


def member(kind: type[Enum]) -> Check:
    """Check for a member of an enumeration, also by its value or name."""

    def check(name: str, value: object) -> Enum:
        for each, candidate in kind.__members__.items():
            if value is candidate or value in (each, candidate.value):
                return candidate
        allowed = [str(each.value) for each in kind]
        hint = names.did_you_mean(value, allowed)
        raise ConfigError(name, f"must be one of {', '.join(allowed)}; got {value!r}{hint}")

    return check


def environment(name: str, value: object) -> dict[str, str]:
    """Check for environment variables: names and values are text."""
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"must be a mapping of names to values; got {value!r}")
    for key, item in value.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise ConfigError(name, f"{key!r} cannot be the name of an environment variable")
        if item is None:
            raise ConfigError(f"{name}[{key!r}]", "must be text; leave it out instead of None")
        if not isinstance(item, str) and not is_template(item):
            raise ConfigError(f"{name}[{key!r}]", f"must be text; write {str(item)!r} instead of {item!r}")
    return dict(value)


def words(name: str, value: object) -> Sequence[str]:
    """Check for a command: words, of which some may be templates."""
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    for word in given:
        if isinstance(word, int | float) and not isinstance(word, bool):
            raise ConfigError(name, f"must hold text; write {str(word)!r} instead of {word!r}")
    if not given or not all(isinstance(word, str) or is_template(word) for word in given):
        raise ConfigError(name, f"must be a list of words such as ['python', 'train.py']; got {value!r}")
    return given


def location(name: str, value: object) -> object:
    """Check for a path or a URL."""
    if not isinstance(value, str | os.PathLike) and not hasattr(value, "protocol"):
        raise ConfigError(name, f"must be a path or a URL; got {value!r}")
    return value
