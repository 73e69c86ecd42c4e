"""Parses subcommands, reports options that belong to another subcommand, and prints messages."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

OMIT_PREFIXES = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
"""Options of nested groups keep their short names: --seed, not --drawing.seed."""
# No "(default: None)" in the help: each text says what holds when the option is not given.
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]


class UsageError(Exception):
    """The command cannot start as it was called; the message says why and what to do."""


def message_console(**options: Any) -> Console:
    """Return a console on stderr that prints text as it is: names of files may look like rich's markup or emoji."""
    return Console(**{"stderr": True, "highlight": False, "soft_wrap": True, "markup": False, "emoji": False} | options)


def print_error(error: object, console: Console | None = None) -> None:
    """Print an error on stderr, as it is."""
    console = console or message_console()
    console.print("error:", style="red", end=" ")
    console.print(str(error), markup=False, emoji=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Subcommands:
    """The subcommands of one command, each with the dataclass of its options."""

    command: str
    """The command's name in messages, such as `reconstruct`."""
    selector: str
    """The option that also selects a subcommand, such as `--method`."""
    configs: Mapping[str, type]
    summaries: Mapping[str, str]
    """One line of help for each."""
    default: type | None = None
    """The options of the command without a subcommand; None where one must be named."""
    default_name: str | None = None
    """The selector's name for the command without a subcommand."""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Other spellings of subcommands."""

    def split(self, args: Sequence[str]) -> tuple[str | None, list[str]]:
        """Return the chosen subcommand, or None if none is named, and its arguments.

        Raises:
            UsageError: the subcommand is unknown, or two different ones are named.
        """
        values, rest = take_option(args, self.selector)
        first = self.aliases.get(rest[0], rest[0]) if rest else None
        if len({self.aliases.get(value, value) for value in values}) > 1:
            raise UsageError(f"{self.selector} is given as {' and as '.join(values)}: name one of them.")
        for selected in values[:1]:
            name = self.aliases.get(selected, selected)
            if name != self.default_name:
                self._check(name, f"{self.selector} {selected}")
            if first not in self.configs:
                return (None if name == self.default_name else name), rest
            if first != name:
                raise UsageError(
                    f"{rest[0]!r} is a subcommand of `{self.command}`, and {self.selector} says {selected!r}: name one "
                    f"of the two. A file or folder of that name is given as ./{rest[0]}."
                )
            return first, rest[1:]
        if first in self.configs:
            return first, rest[1:]
        if self.default is None and rest and not rest[0].startswith("-"):
            self._check(rest[0], f"{self.command} {rest[0]}")
        return None, rest

    def _check(self, name: str, written: str) -> None:
        if name not in self.configs:
            similar = difflib.get_close_matches(name, self.configs, 1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            raise UsageError(f"`{written}`: no such subcommand.{hint} There are {', '.join(self.configs)}.")

    def check_options(self, name: str | None, args: Sequence[str]) -> None:
        """Refuse options that only other subcommands have. Raises: UsageError, which names them."""
        config = self.default if name is None else self.configs[name]
        known = set(option_names(config))
        for arg in args:
            if arg == "--":
                return
            option = arg.removeprefix("--").partition("=")[0].replace("-", "_").removeprefix("no_")
            if arg.startswith("--") and option not in known and (owners := self.owners(option)):
                raise UsageError(f"{flag(option)} is an option of {owners}, not of {self.title(name)}.")

    def owners(self, option: str) -> str:
        """Return the subcommands with this option, as words; empty where none has it."""
        names = [self.title(name) for name, config in self.configs.items() if option in option_names(config)]
        return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))

    def title(self, name: str | None) -> str:
        """Return a subcommand as messages write it."""
        return f"`{self.command} {name}`" if name else f"`{self.command}`"

    def listing(self) -> str:
        """Return the lines of help of all subcommands."""
        width = max(map(len, self.summaries))
        return "\n".join(f"  {name:{width}}  {line}" for name, line in self.summaries.items())

    def parse(self, args: Sequence[str], prog: str, description: str | None = None) -> Any:
        """Return the options as an object of the subcommand's dataclass. description: text of the default's help.

        Raises:
            UsageError: the call is wrong in a way that tyro cannot explain. Others end with SystemExit(2).
        """
        name, rest = self.split(args)
        if name is None and self.default is None:
            raise UsageError(f"name one of {', '.join(self.configs)} first. `{prog} --help` says what they are.")
        self.check_options(name, rest)
        if name is None:
            default: Any = self.default
            return tyro.cli(default, args=rest, prog=prog, description=description, config=OMIT_PREFIXES)
        return tyro.cli(self.configs[name], args=rest, prog=f"{prog} {name}", config=OMIT_PREFIXES)

    def union(self) -> Any:
        """Return a type with all subcommands and the default's options, from which tyro writes the shell completion."""
        subcommands = union_of(self.configs, self.summaries)
        if self.default is None:
            return subcommands
        return dataclasses.make_dataclass("WithDefault", [("options", self.default), ("subcommand", subcommands)])


def union_of(configs: Mapping[str, Any], summaries: Mapping[str, str]) -> Any:
    """Return the union type of subcommands, as tyro takes it."""
    members = (
        Annotated[config, tyro.conf.subcommand(name, description=summaries[name])] for name, config in configs.items()
    )
    return functools.reduce(operator.or_, members)


def take_option(args: Sequence[str], *options: str) -> tuple[list[str], list[str]]:
    """Return the values of options and the other arguments. Raises: UsageError, an option has no value."""
    values, rest, remaining = [], [], iter(args)
    for arg in remaining:
        option, equals, value = arg.partition("=")
        if option not in options:
            rest.append(arg)
            continue
        following = value if equals else next(remaining, None)
        if following is None:
            raise UsageError(f"{option} needs a name after it.")
        values.append(following)
    return values, rest


def option_names(config: Any) -> Iterator[str]:
    """Yield the names of a dataclass's fields; a nested dataclass gives those of its own fields."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from option_names(hints[field.name])
        else:
            yield field.name


def flag(name: str) -> str:
    """Return a field's name as a command-line option, such as --num-samples."""
    return f"--{name.replace('_', '-')}"
