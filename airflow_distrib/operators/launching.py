"""Operator arguments that only some launchers honour: declared by launchers, chosen by and checked against them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from airflow_distrib.core import config as configs
from airflow_distrib.core import names
from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Argument, Launcher
from airflow_distrib.jobs.request import JobRequest

AnyLauncher = Launcher[Any, Any]

# Arguments of every operator that not every launcher honours, with their defaults.
LIMITED: Mapping[str, object] = {
    "keep_job": "never",
    "python": None,
    "result_path": None,
    "termination_grace_seconds": None,
}


def arguments_of(launchers: Iterable[AnyLauncher]) -> dict[str, Argument]:
    """The launchers' own arguments, by name."""
    return {each.name: each for launcher in launchers for each in launcher.arguments}


def with_parameters(init: Callable[..., None], names: Iterable[str]) -> Callable[..., None]:
    """An ``__init__`` whose signature has further parameters.

    Airflow reads names of arguments from signatures: for ``default_args``, ``partial()`` and ``expand()``.
    """

    def init_with_parameters(self: object, **kwargs: object) -> None:
        init(self, **kwargs)

    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    known = [each for each in inspect.signature(init).parameters.values() if each.name not in set(names)]
    variadic = [each for each in known if each.kind is inspect.Parameter.VAR_KEYWORD]
    others = [each for each in known if each.kind is not inspect.Parameter.VAR_KEYWORD]
    init_with_parameters.__doc__ = init.__doc__
    init_with_parameters.__signature__ = inspect.Signature([*others, *added, *variadic])  # type: ignore[attr-defined] # known to inspect
    return init_with_parameters


def fields_shown(fields: Iterable[str], launcher: AnyLauncher, arguments: Mapping[str, object]) -> tuple[str, ...]:
    """Template fields without other launchers' arguments, such as connections to clusters that a job does not use."""
    return tuple(each for each in fields if arguments.get(each, each) is not None or each in launcher.takes)


def checked(argument: Argument, value: object) -> object:
    """The normal form of a value; what only gets its value at run time stays."""
    if value is None or (argument.templated and configs.is_template(value)):
        return value
    return argument.check(argument.name, value)


def unknown(arguments: Mapping[str, Argument], values: Mapping[str, object]) -> list[str]:
    """Names of what templates and upstream tasks still have to supply, of what makes the job."""
    found: list[str] = []
    for name, argument in arguments.items():
        value = values[name]
        if not (argument.part_of_job and argument.templated):
            continue
        if isinstance(value, Config):
            found += [f"{name}.{inner}" for inner in value.templates()]
        elif _is_open(value):
            found.append(name)
    return found


def _is_open(value: object) -> bool:
    if isinstance(value, Config):
        return bool(value.templates())
    if isinstance(value, Mapping):
        return any(map(_is_open, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_open, value))
    return configs.is_template(value)


def render(launcher: AnyLauncher, config: Any, request: JobRequest) -> Any:
    """Render a job; errors of its config name the field with its whole path.

    Raises:
        ConfigError: the launcher cannot honour an option.
    """
    try:
        return launcher.render(config, request)
    except ConfigError as error:
        outermost = re.split(r"[.\[]", error.field)[0]
        if outermost in request.arguments or outermost not in names.fields_of(type(config)):
            raise
        raise ConfigError(f"task_config.{error.field}", error.problem) from None


def choose(
    owner: str, launchers: tuple[AnyLauncher, ...], asked: str, given: Mapping[str, object], config: object
) -> AnyLauncher:
    """The launcher of a job: the one that is asked for, or the first that honours every argument and suits the config.

    Args:
        owner: name of the operator.
        asked: name of the launcher; empty leaves the choice.
        given: launchers' own arguments that are set.
        config: may still be a template.

    Raises:
        ConfigError: there is none.
    """
    if asked:
        for launcher in launchers:
            if launcher.name == asked:
                return launcher
        known = [each.name for each in launchers]
        hint = names.did_you_mean(asked, known)
        raise ConfigError("launcher", f"{owner} runs with {' or '.join(known)}; got {asked!r}{hint}")
    able = [each for each in launchers if each.takes.issuperset(given)]
    if not able:
        who = ", ".join(f"{name} ({_honouring(launchers, name)})" for name in given)
        raise ConfigError(
            "launcher", f"is needed where arguments of several launchers are set: {who}; set only one of them"
        )
    if isinstance(config, Config):
        return next((each for each in able if each.suits(config)), able[0])
    return able[0]


def _honouring(launchers: Iterable[AnyLauncher], name: str) -> str:
    return " or ".join(each.name for each in launchers if name in each.takes)


def not_honoured(launcher: AnyLauncher, given: Iterable[str]) -> list[str]:
    """Arguments that are set and that a launcher does not honour."""
    return [name for name in given if name not in launcher.takes]


def refuse(launcher: AnyLauncher, launchers: tuple[AnyLauncher, ...], given: Iterable[str]) -> None:
    """Refuse arguments that would have no effect.

    Raises:
        ConfigError: names the first of them, and who would honour it.
    """
    for name in not_honoured(launcher, given):
        others = " or ".join(f"launcher={each.name!r}" for each in launchers if name in each.takes)
        fix = f"{others} honours it" if others else "remove it"
        raise ConfigError(name, f"has no effect with launcher={launcher.name!r}; {fix}")
