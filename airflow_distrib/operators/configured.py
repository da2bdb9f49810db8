"""The half of an operator that is about its config: checking, merging, templating, mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic

from airflow.sdk import BaseOperator, XComArg

from airflow_distrib.core import config as configs
from airflow_distrib.core.callers import raises_at_caller
from airflow_distrib.core.config import Config, ConfigT
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Argument
from airflow_distrib.operators import naming
from airflow_distrib.operators.failures import ends_the_task


class ConfiguredOperator(BaseOperator, Generic[ConfigT], metaclass=naming.NamesTheTask):
    """Holds a config that may be a mapping, hold templates, or come from an upstream task."""

    config_type: ClassVar[type[Config]]
    # Arguments of the operator's launchers, by name.
    launcher_arguments: ClassVar[Mapping[str, Argument]] = {}

    def __init__(self, *, task_config: object, task_config_overrides: object, **kwargs: Any) -> None:
        naming.check(type(self), kwargs)
        super().__init__(**kwargs)
        self._given_config = task_config
        self._unrenderable: ConfigError | None = None
        self.task_config = self.check_config(task_config)
        self.task_config_overrides = task_config_overrides

    def depend_on_references(self) -> None:
        """Run after the upstream tasks whose outputs are inside configs; Airflow looks into plain containers only."""
        for name in self.template_fields:
            for reference in _references(getattr(self, name)):
                XComArg.apply_upstream_relationship(self, reference)

    @classmethod
    def place_of(cls, name: str) -> str:
        """How an argument of this operator is written, or one of a config among them; empty without one."""
        return naming.place_of(cls, name)

    @classmethod
    @raises_at_caller
    def partial(cls, **kwargs: Any) -> Any:
        """As in every operator; configs with upstream outputs become plain mappings, in which Airflow finds them."""
        naming.check(cls, kwargs)
        if "task_config" in kwargs:
            kwargs["task_config"] = cls.mappable(kwargs["task_config"])
        return super().partial(**{name: without_configs(value) for name, value in kwargs.items()})

    @classmethod
    def mappable(cls, given: object) -> object:
        """A config that holds upstream outputs as the mapping that stands for it."""
        config = cls.check_config(given)
        return config.plain() if isinstance(config, Config) and _references(config) else given

    @classmethod
    def check_config(cls, given: object) -> object:
        """Turn what a user gave as ``task_config`` into a config; templates stay.

        Raises:
            ConfigError: it is something else, or a value of it cannot work.
        """
        if configs.is_template(given):
            return given
        if given is None:
            given = {}
        if isinstance(given, type):
            raise ConfigError("task_config", f"got the class {given.__name__}; write {given.__name__}(...)")
        if isinstance(given, Config) and not isinstance(given, cls.config_type):
            raise ConfigError("task_config", f"must be of type {cls.config_type.__name__}, not {type(given).__name__}")
        return configs.of(cls.config_type)("task_config", given)

    def render_template(self, content: Any, context: Any, jinja_env: Any = None, seen_oids: Any = None) -> Any:
        """Render configs too: a rendered copy replaces them, which checks the rendered values."""
        if not isinstance(content, Config):
            return super().render_template(content, context, jinja_env, seen_oids)
        if content is self.task_config and seen_oids and id(self._given_config) in seen_oids:
            # An upstream's output, which Airflow does not take for a template.
            return content
        environment = jinja_env or self.get_template_env()
        try:
            return content.mapped(lambda value: self._render_in_config(value, context, environment))
        except ConfigError as error:
            # Airflow would print it with its frames here, and once more as the task's error.
            name = next((each for each in self.template_fields if getattr(self, each) is content), "")
            self._unrenderable = ConfigError(f"{name}.{error.field}" if name else error.field, error.problem)
            return content

    def _render_in_config(self, value: Any, context: Any, jinja_env: Any) -> Any:
        """Render one value of a config; text stays text, also in DAGs that render native objects.

        The config's checks turn text into numbers where numbers belong; environment variables
        such as "0,1" must stay as they are.
        """
        if isinstance(value, Config):
            return value.mapped(lambda inner: self._render_in_config(inner, context, jinja_env))
        if isinstance(value, str):
            template = jinja_env.from_string(value)
            return "".join(map(str, template.root_render_func(template.new_context(dict(context)))))
        if isinstance(value, Mapping):
            return {key: self._render_in_config(item, context, jinja_env) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._render_in_config(item, context, jinja_env) for item in value]
        return super().render_template(value, context, jinja_env)

    @ends_the_task
    def _do_render_template_fields(self, *args: Any, **kwargs: Any) -> None:
        """Fail for good when a rendered value cannot work: a retry renders the same."""
        super()._do_render_template_fields(*args, **kwargs)
        if self._unrenderable is not None:
            raise self._unrenderable

    def unknown_fields(self, config: object) -> list[str]:
        """What templates and upstream tasks still have to supply."""
        fields = (
            [f"task_config.{name}" for name in config.templates()] if isinstance(config, Config) else ["task_config"]
        )
        return fields + (["task_config_overrides"] if configs.is_template(self.task_config_overrides) else [])

    def final_config(self) -> Any:
        """The config with its overrides, as far as both are known."""
        config = self.check_config(self.task_config)
        overrides = self.task_config_overrides
        if overrides is None or configs.is_template(overrides):
            return config
        if not isinstance(overrides, Mapping):
            raise ConfigError("task_config_overrides", f"must be a mapping of fields to replace; got {overrides!r}")
        if not isinstance(config, Config):
            return config
        return configs.inside("task_config_overrides", type(config), config.merged, overrides)


def without_configs(value: object) -> object:
    """Configs that hold upstream outputs as the mappings that stand for them, also inside other mappings."""
    if isinstance(value, Config):
        return value.plain() if _references(value) else value
    if isinstance(value, Mapping) and _references(value):
        return {name: without_configs(item) for name, item in value.items()}
    return value


def _references(value: object) -> list[Any]:
    """Upstream outputs anywhere inside a config; Airflow itself only looks into plain containers."""
    if isinstance(value, Config):
        return _references(value.values())
    if isinstance(value, Mapping):
        return _references(list(value.values()))
    if isinstance(value, list | tuple | set):
        return [reference for item in value for reference in _references(item)]
    return [value] if configs.is_reference(value) else []
