"""Option models as argparse arguments: spelling, help texts and examples.

Owns how options look on the command line. It must not know what a program does with them, nor read a
config file. Imports stay small so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Any, NoReturn, TypeVar

from openmsistream.config.kinds import Kind, Patterns, Switch
from openmsistream.config.options import (
    GROUPS,
    CommonOptions,
    Option,
    UploadOptions,
    WatchOptions,
    default_text,
    options_of,
)
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.options_s3 import S3Options
from openmsistream.config.sections import layered
from openmsistream.errors import ConfigError

_COMPLAIN = "complain"
"""Where a namespace keeps how its parser ends with a mistake, for what only a config file can tell."""

Model = TypeVar("Model", bound=CommonOptions)

# What to do, and the arguments behind the program's name. "{-}" is the program's own word separator.
_EXAMPLES: dict[type, tuple[tuple[str, str], ...]] = {
    UploadOptions: (
        (
            "Send one file to the topic xrd with the config file lab.config:",
            "scan_001.csv --config lab.config --topic{-}name xrd",
        ),
        ("Try it with a broker on this computer:", "scan_001.csv"),
    ),
    WatchOptions: (
        (
            "Send every new file of a folder until you press q:",
            "xrd_data --config lab.config --topic{-}name xrd",
        ),
        (
            "Send everything that is there now, then end (for a nightly job):",
            "xrd_data --config lab.config --topic{-}name xrd --once",
        ),
        (
            "Leave the instrument's computer and network alone as far as possible:",
            "xrd_data --config lab.config --topic{-}name xrd --low{-}priority --max{-}rate 20MB/s",
        ),
        (
            "Watch all folders that the [folder NAME] sections of lab.config name:",
            "--config lab.config",
        ),
    ),
    DownloadOptions: (
        (
            "Write every file of the topic xrd to a folder until you press q:",
            "archive --config lab.config --topic{-}name xrd",
        ),
        (
            "Fetch what is there, and end when nothing came for 30 seconds:",
            "archive --config lab.config --topic{-}name xrd --until{-}idle 30",
        ),
        (
            "Share the work with other computers, which all name the same group:",
            "archive --config lab.config --topic{-}name xrd --consumer{-}group{-}id archive",
        ),
    ),
    S3Options: (
        (
            "Put every file of the topic xrd into the bucket xrd-archive until you press q:",
            "xrd-archive --config lab.config --topic{-}name xrd",
        ),
        (
            "Try it with a broker and a store on this computer (openmsistream local start --s3):",
            "files --topic{-}name files",
        ),
        (
            "Have the bucket remove after 7 days what is left of unfinished uploads:",
            "xrd-archive --config lab.config --set{-}abort{-}rule 7",
        ),
    ),
}


class Parser(argparse.ArgumentParser):
    """
    An argument parser that answers a mistake with one line, and ends with exit code 2.

    Attributes:
        anywhere: The name of an argument with ``nargs="*"`` whose values may also stand behind options: argparse of
            Python 3.11 takes none once it has seen an option.
    """

    anywhere = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but what a sub-command does not know is its own mistake to tell, with its own help."""
        found, unknown = super().parse_known_args(args, namespace)
        if self.anywhere and not any(word.startswith("-") for word in unknown):
            setattr(found, self.anywhere, [*getattr(found, self.anywhere), *unknown])
            unknown = []
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line instead of listing every option; suggest the nearest name."""
        if message.startswith("unrecognized arguments: "):
            wrong = message.split()[2].partition("=")[0]
            near = difflib.get_close_matches(wrong, _names(self), n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_options(parser: argparse.ArgumentParser, model: type[CommonOptions], *, legacy: bool) -> None:
    """
    Give a parser the options of a model.

    ``--chunk_size`` and ``--chunk-size`` are both accepted, and ``--no-...`` switches off what a config
    file has switched on. Only what is typed gets into the namespace; the defaults come with ``parse``.

    Args:
        parser: A parser or a sub-command's parser; its usage line and the end of its help are set.
        model: One of the option models.
        legacy: Show the spelling of 1.x (``--chunk_size``) in help texts and messages.
    """
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    place = ""
    for name, (item, option) in options_of(model).items():
        if option.positional:
            place = option.kind.metavar
            # 1.x's scripts ask for it, and theirs is the spelling that --help and messages of a script have.
            optional = option.by_config and not legacy
            more: dict[str, Any] = {"nargs": "?"} if optional else {}
            parser.add_argument(name, type=_reader(option.kind), metavar=place, help=_help(item, option), **more)
            if optional:
                place = f"[{place}]"
                parser.set_defaults(**{_COMPLAIN: parser.error})
            continue
        group = groups[option.group]
        shown, other = _spellings(name, legacy=legacy)
        text = _help(item, option, opposite="--no-" + shown.removeprefix("--"))
        _add(group, name, shown, option.kind, text)
        if other != shown:
            _add(group, name, other, option.kind, argparse.SUPPRESS)
        if isinstance(option.kind, Switch):
            # Both spellings of the opposite, for what a config file switched on.
            opposites = dict.fromkeys("--no-" + text.removeprefix("--") for text in (shown, other))
            group.add_argument(
                *opposites,
                dest=name,
                action="store_false",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
    parser.usage = f"%(prog)s [options] {place}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _examples(model, parser.prog, legacy=legacy)


def parse(model: type[Model], namespace: argparse.Namespace, config_defaults: Mapping[str, Any]) -> Model:
    """
    The options to run with: what was typed, over what the config file says, over the defaults.

    Args:
        model: The model that was given to ``add_options``.
        namespace: What the parser returned.
        config_defaults: From ``ProgramConfig.option_defaults(model)``.

    Raises:
        ConfigError: A value is not allowed.
    """
    values = layered(config_defaults, typed(model, namespace))
    return model(**values, given=frozenset(values))


def typed(model: type[CommonOptions], namespace: argparse.Namespace) -> dict[str, Any]:
    """The options that were typed, by name."""
    names = options_of(model)
    # None: a place that was left out. (argparse takes SUPPRESS for a value there.)
    return {name: value for name, value in vars(namespace).items() if name in names and value is not None}


def refuse_without_folder(namespace: argparse.Namespace, config: str) -> NoReturn:
    """End the program with exit code 2: no folder was typed, and this config file names none."""
    getattr(namespace, _COMPLAIN)(f"FOLDER is missing, and no [folder NAME] section of {config} names one")
    raise AssertionError  # error() does not return


def refuse_without_bucket(namespace: argparse.Namespace, config: str) -> NoReturn:
    """End the program with exit code 2: no bucket was typed, and neither this config file nor BUCKET_NAME names one."""
    complain: Callable[[str], object] | None = getattr(namespace, _COMPLAIN, None)
    text = f"BUCKET is missing, and [s3] bucket_name of {config} does not name one"
    if complain is None:
        raise ConfigError(text)
    complain(text)
    raise AssertionError  # error() does not return


def config_name(model: type[CommonOptions], namespace: argparse.Namespace) -> str:
    """The config file to load: needed before ``parse``, since the file brings defaults."""
    return str(getattr(namespace, "config", options_of(model)["config"][0].default))


def _add(group: argparse._ArgumentGroup, name: str, spelling: str, kind: Kind, text: str) -> None:
    if isinstance(kind, Switch):
        group.add_argument(spelling, dest=name, action="store_true", default=argparse.SUPPRESS, help=text)
    else:
        group.add_argument(
            spelling,
            dest=name,
            # What is typed several times adds up where it is a list.
            action="extend" if isinstance(kind, Patterns) else "store",
            type=_reader(kind),
            metavar=kind.metavar,
            default=argparse.SUPPRESS,
            help=text,
        )


def _names(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser and of its sub-commands, as they are typed."""
    found: set[str] = set()
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list them
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for child in action.choices.values():
                found |= _names(child)
    return found


def _spellings(name: str, *, legacy: bool) -> tuple[str, str]:
    old, new = f"--{name}", "--" + name.replace("_", "-")
    return (old, new) if legacy else (new, old)


def _reader(kind: Kind) -> Callable[[str], object]:
    def read(text: str) -> object:
        try:
            return kind.accept(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return read


def _help(item: Field[Any], option: Option, opposite: str = "") -> str:
    default = default_text(item, option)
    if isinstance(option.kind, Switch) and item.default is True:
        default += f"; {opposite} switches it off"
    # argparse takes % for a placeholder.
    return (option.text + (f" (default: {default})" if default else "")).replace("%", "%%")


def _examples(model: type[CommonOptions], program: str, *, legacy: bool) -> str:
    lines = ["examples:"]
    # Without FOLDER: not in the scripts of 1.x.
    shown = [each for each in _EXAMPLES.get(model, ()) if not (legacy and each[1].startswith("--"))]
    for number, (what, arguments) in enumerate(shown, start=1):
        typed = arguments.replace("{-}", "_" if legacy else "-")
        lines += [f"  {number}. {what}", f"     {program} {typed}"]
    return "\n".join(lines) if len(lines) > 1 else ""
