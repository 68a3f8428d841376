"""Parsers for the command line and for YAML configurations, with errors that name the option and suggest another."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

import yaml
from jsonargparse import (
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    get_loader,
    set_loader,
    set_parsing_settings,
)

from oddetr.common.text import KINDS, shown_lines, unknown_option
from oddetr.common.untrusted import refuse_aliases

_LISTS = (list, tuple, Sequence)
YAML = "yaml without aliases"
"""The `parser_mode` with which configurations are read."""


def read_yaml(text: str) -> Any:
    """Parse a configuration's YAML, with numbers in any notation (1e-3).

    Raises:
        yaml.YAMLError: it is no YAML, or has an alias.
    """
    refuse_aliases(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the one that jsonargparse takes
    return get_loader("yaml")(text)


set_loader(YAML, read_yaml, (yaml.YAMLError,))


class Help(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help with dashes in options and without Python types, and a usage line of what is required."""

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """Replace the list of all options by the required ones."""
        needed = [self._format_args(action, action.dest) for action in actions if not action.option_strings]
        required = [action for action in actions if action.option_strings and action.required]
        needed += [f"--{action.dest} {action.dest.upper()}" for action in required]
        super().add_usage(" ".join([self._prog, *needed, "[options]"]), [], [], prefix)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if not action.option_strings:
            return text
        if action.required:
            return f"{text} (required)"
        if default is None or default == argparse.SUPPRESS or default in ({}, [], ()):
            return text
        if isinstance(default, list | tuple):
            default = ",".join(map(str, default))
        return f"{text} (default: {str(default).lower() if isinstance(default, bool) else default})"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        text = re.sub(r", --\S+\+ \S+", "", super()._format_action_invocation(action))  # the option that appends
        return re.sub(r"--[\w.]+", lambda option: option[0].replace("_", "-"), text)


def plain_yaml_error(message: str) -> str:
    """Remove the YAML reader's placeholder for the name of its input."""
    return re.sub(r'\s+in "<[\w ]+>",', " at", message)


def configuration_text(file: Path) -> str:
    """Read a configuration file.

    Raises:
        ValueError: it is no UTF-8 text; names the file.
    """
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8.") from None


class Parser(ArgumentParser):
    """A parser of options with dashes or underscores, and of lists as `a,b`, whose errors are in plain words.

    Attributes:
        file: the configuration file that is being read, if any; errors name it.
    """

    file: str | None = None

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """As in jsonargparse; `--top-k` is `--top_k`, and `--seeds 0,1` is `--seeds [0,1]`."""
        return super().parse_args(self._normalised(args or ()), *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2, or raise `argparse.ArgumentError` if `exit_on_error` is off."""
        message = _reworded(message, [option for action in self._actions for option in action.option_strings])
        super().error(shown_lines(f"{self.file}: {message}" if self.file else message), ex)

    def values(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Parse arguments into values by name; exits with code 2 if they are wrong."""
        return self.instantiate(self.parse_args(arguments)).as_dict()

    def extend_help(self, option: str, text: str) -> None:
        """Append to an option's help."""
        action = next(action for action in self._actions if action.dest == option)
        action.help = f"{action.help} {text}"

    def _normalised(self, arguments: Sequence[str]) -> list[str]:
        lists = {option for action in self._actions if _takes_list(action) for option in action.option_strings}
        words: list[str] = []
        for argument in arguments:
            if argument.startswith("--"):
                name, *values = argument.split("=", 1)
                name = "--" + name[2:].replace("-", "_")
                words.append("=".join([name, *(_as_list(value) if name in lists else value for value in values)]))
            else:
                words.append(_as_list(argument) if words and words[-1] in lists else argument)
        return words


class ConfigFile(ActionConfigFile):
    """`--config FILE`, whose errors name the file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Parse the file by itself, so that errors in it name it; then read it."""
        if Path(values).is_file():
            parser.file = values
            configuration_text(Path(values))
            parser.parse_path(values, env=False, defaults=False)
            parser.file = None
        super().__call__(parser, cfg, values, option_string)


def _as_list(value: str) -> str:
    """`a,b` as a list in YAML."""
    return value if value.startswith("[") else json.dumps(value.split(","))


def _takes_list(action: argparse.Action) -> bool:
    """Whether an option takes a list, and no plain text."""
    kind = getattr(action, "_typehint", None)
    members = (kind,) if get_origin(kind) in _LISTS else get_args(kind)
    return str not in members and any(get_origin(member) in _LISTS for member in members)


def _reworded(message: str, options: Sequence[str]) -> str:
    """Put an error of jsonargparse or argparse in plain words.

    Args:
        options: all options of the parser, with underscores.
    """
    names = [option.removeprefix("--") for option in options]
    if unknown := re.match(r"(?:Group '(.+)' does not accept option|Option) '(.+)'", message):
        return unknown_option(".".join(filter(None, unknown.groups())), names)
    if unknown := re.match(r"unrecognized arguments: --([\w.]+)", message):
        return unknown_option(unknown[1], names)
    if extra := re.match(r"unrecognized arguments: (\S+)", message):
        return message + (f". Did you mean --data {extra[1]}?" if "--data" in options else "")
    if message.startswith("Unexpected config:"):
        return "there are no options in it. Give names with values: `oddetr train --print-config` shows all."
    if group := re.match(r'Parser key "([\w.]+)":\s+Unable to load config \'(.*)\'', message):
        return f"{group[1]} takes {KINDS['dict']}, not {group[2]!r}."
    if wrong := re.match(r'Parser key "([\w.]+)":\n(.*?)(?:Given|Got) value: ([^\n]*)', message, re.DOTALL):
        expected = wrong[2].partition("Given value type")[0]
        kinds = [text for kind, text in KINDS.items() if f"<class '{kind}'>" in expected]
        kinds += re.findall(r"'(\w+)'", "".join(re.findall(r"Literal\[.*?\]", expected)))
        return f"{wrong[1]} takes {' or '.join(dict.fromkeys(kinds))}, not {wrong[3]!r}." if kinds else message
    return plain_yaml_error(message).replace("Problems parsing config:", "this is no YAML:")


def make_parser(verb: str, description: str, epilog: str | None = None) -> Parser:
    """Make the parser of `oddetr VERB`; the epilog is shown after the options.

    No value may name something to import (`class_path`), since configurations may come from strangers.
    """
    set_parsing_settings(import_path_denylist=["*"], instantiate_subclass_spec_in_any=False)
    return Parser(
        prog=f"oddetr {verb}",
        description=description,
        epilog=epilog,
        formatter_class=Help,
        parser_mode=YAML,
        exit_on_error=True,
        allow_abbrev=False,
    )
