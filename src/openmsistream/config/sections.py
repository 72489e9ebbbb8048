"""Options as a config file sets them: a section's keys to values of an option model.

Owns what is allowed in such a section and every error about it, with file, section, key, line and value. It must not
know how a file is parsed, nor what an option means.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field
from typing import Any

from openmsistream.config.ini import Settings
from openmsistream.config.options import CommonOptions, Option, UploadOptions, WatchOptions, options_of
from openmsistream.config.options_download import DownloadOptions
from openmsistream.errors import ConfigError

SECTION_MODELS: dict[str, tuple[type[CommonOptions], ...]] = {
    "upload": (UploadOptions, WatchOptions),
    "download": (DownloadOptions,),
}
"""Which models take their defaults from which section of a config file."""

ALIASES = {"quiet_seconds": "watchdog_lag_time", "closed_seconds": "closed_lag_time"}
"""Further names of options in a config file: those of 1.x say little beside the other settle rules."""

_ONE_SIDE = frozenset({"producer_topic_name", "consumer_topic_name"})

Known = Mapping[str, tuple[Field[Any], Option]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an option cannot stand in a section, behind its name and value, and what to do."""

    why: str
    hint: str


TYPED_ONLY = Refusal("can only be given on the command line", "remove the line")


@dataclass(frozen=True, slots=True)
class Allowed:
    """
    The keys of a kind of section.

    Attributes:
        section: Its name, for settings that do not come from a file.
        known: The options that can be set, by name.
        refused: Options that cannot, by name.
    """

    section: str
    known: Known
    refused: Mapping[str, Refusal] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every spelling of every key, in the order of the model."""
        aliases = {option: alias for alias, option in ALIASES.items() if option in self.known}
        return [spelled for name in self.known for spelled in (aliases.get(name), name) if spelled]


def from_file(model: type, section: Mapping[str, str]) -> dict[str, Any]:
    """
    The defaults that a config file's section sets for the options of ``model``.

    Args:
        model: An option model; its ``SECTION`` is where ``section`` comes from.
        section: Option names ("_" or "-") and values. Names of options that only another program
            reading this section has are accepted and left out.

    Raises:
        ConfigError: No program has such an option, it cannot be set in a file, or its value is not
            allowed. Names file, section, key, value and what is allowed.
    """
    name = getattr(model, "SECTION", "")
    found = read_keys(section, allowed_for((*SECTION_MODELS.get(name, ()), model), name))
    own = options_of(model)
    return {key: value for key, value in found.items() if key in own}


def allowed_for(models: Iterable[type], section: str) -> Allowed:
    """What a section may say that sets options of these models."""
    known: dict[str, tuple[Field[Any], Option]] = {}
    for model in models:
        known |= options_of(model)
    typed_only = {name for name, (_, option) in known.items() if option.positional} | {"config"}
    return Allowed(
        section,
        {name: entry for name, entry in known.items() if name not in typed_only},
        dict.fromkeys(typed_only, TYPED_ONLY),
    )


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The options of all layers, by name; where several have one, the last wins."""
    values: dict[str, Any] = {}
    for layer in layers:
        if "topic_name" in layer:
            # Else the name for one side from below would win over the topic that is named here.
            values = {name: value for name, value in values.items() if name not in _ONE_SIDE}
        values.update(layer)
    return values


def read_keys(section: Mapping[str, str], allowed: Allowed) -> dict[str, Any]:
    """
    The values of a section's keys, by option name.

    Args:
        section: Names ("_" or "-") and values; ``Settings`` know where each stands.
        allowed: What may be said.

    Raises:
        ConfigError: As ``from_file``.
    """
    settings = section if isinstance(section, Settings) else Settings(section)
    found: dict[str, Any] = {}
    for key in settings:
        place = settings.origin(key) if isinstance(section, Settings) else f"[{allowed.section}] {key}"
        name = key.replace("-", "_")
        name = ALIASES.get(name, name)
        refusal = allowed.refused.get(name)
        if refusal is not None:
            raise ConfigError(f"{place}: {name} = {settings.shown(key)} {refusal.why}", hint=refusal.hint)
        if name not in allowed.known:
            names = allowed.names()
            near = difflib.get_close_matches(key.replace("-", "_"), names, n=1)
            raise ConfigError(
                f"{place}: there is no option of this name (value {settings.shown(key)})",
                hint=f"did you mean {near[0]}?" if near else "allowed are " + ", ".join(names),
            )
        if name in found:
            raise ConfigError(f"{place}: the option is already given with another spelling", hint="keep one")
        item, option = allowed.known[name]
        value: object = None
        if settings[key] or item.default is not None:
            try:
                value = option.kind.accept(settings[key])
            except ValueError as error:
                raise ConfigError(f"{place}: {settings.shown(key)} {error}") from None
        found[name] = value
    return found
