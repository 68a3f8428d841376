"""How the command line is read: options with dashes, plain words for what is wrong."""

import argparse
import difflib
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

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

YAML = "yaml without aliases"
"""How parsers of configurations read files and values (`parser_mode`)."""


def read_yaml(text: str) -> Any:
    """What a configuration's YAML says, with numbers in any notation (1e-3).

    Raises:
        yaml.YAMLError: it is none, or has an alias.
    """
    refuse_aliases(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # as jsonargparse's own does
    return get_loader("yaml")(text)


set_loader(YAML, read_yaml, (yaml.YAMLError,))


def _is_needed(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.required


_UNSAID = (None, "null", "")


def _default(found: re.Match[str]) -> str:
    return "" if found[2] in _UNSAID else f" (default: {found[2]})"


def _default_alone(found: re.Match[str]) -> str:
    said = {"True": "true", "False": "false"}.get(found[1], found[1])
    return "" if said in _UNSAID else f" (default: {said})"


class Help(DefaultHelpFormatter):
    """Shows options with dashes, as they are usually typed (both forms are understood), and their defaults, not their
    Python types; keeps the lines of texts. The usage names only what must be given."""

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """Replaces the list of all options."""
        needed = [self._format_args(action, action.dest) for action in actions if not action.option_strings]
        options = [action for action in actions if _is_needed(action)]
        needed += [f"--{action.dest} {action.metavar or action.dest.upper()}" for action in options]
        super().add_usage(" ".join([self._prog, *needed, "[options]"]), [], [], prefix)

    def _expand_help(self, action: argparse.Action) -> str:
        shown = super()._expand_help(action)
        shown = re.sub(r"\s*\((required, )?type: [^()]*?(?:, default: ([^()]*))?\)$", _default, shown)
        shown = re.sub(r"\s*\(default: (.*)\)$", _default_alone, shown)
        return shown + " (required)" * _is_needed(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = super()._format_action_invocation(action)
        return re.sub(r"--[\w.]+", lambda option: option[0].replace("_", "-"), shown)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        hanging = ("    " if line.startswith("  ") else "" for line in text.splitlines())
        return "\n".join(
            textwrap.fill(line, width, subsequent_indent=further)
            for line, further in zip(text.splitlines(), hanging, strict=True)
        )


def plain_yaml_error(message: str) -> str:
    """Without the names that the YAML reader has for a file that it was given as a text."""
    return re.sub(r'\s+in "<[\w ]+>",', " at", message)


def configuration_text(file: Path) -> str:
    """What stands in a configuration file.

    Raises:
        ValueError: it is no text; names the file.
    """
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8.") from None


class Parser(ArgumentParser):
    """Says plainly what is wrong with a command or a configuration file, and what may have been meant.

    Attributes:
        file: the configuration file that is being read; its options have no dashes.
    """

    file: str | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the process with exit code 2, or where it shall not, raises an `argparse.ArgumentError`."""
        if found := _found_wrong(message):
            message = self._wrong_value(*found)
        else:
            message = self._of_content(message) if self._in_content else self._of_command(message)
        super().error(shown_lines(f"{self.file}: {message}" if self.file else message), ex)

    def instantiate(self, namespace: Namespace, *arguments: Any, **more: Any) -> Namespace:
        """Refuses a value in the place of a group of options."""
        self._refuse_lone_values(namespace)
        return super().instantiate(namespace, *arguments, **more)

    def say_more(self, option: str, text: str) -> None:
        """Says more of an option than its docstring."""
        action = next(action for action in self._actions if action.dest == option)
        action.help = f"{action.help} {text}"

    def check_file(self, file: Path) -> None:
        """Reads a configuration file alone, so that what is wrong is told to be there."""
        self.file = str(file)
        try:
            configuration_text(file)
            self._refuse_lone_values(self.parse_path(file, env=False, defaults=False))
        finally:
            self.file = None

    @property
    def _in_content(self) -> bool:
        return self.file is not None or not self.exit_on_error

    def _wrong_value(self, option: str, kinds: Sequence[str], value: str) -> str:
        shown = option if self._in_content else f"--{option.replace('_', '-')}"
        return f"{shown} takes {' or '.join(kinds)}, not {value!r}."

    def _refuse_lone_values(self, found: Namespace) -> None:
        for group in self.groups or ():
            if group in found and not isinstance(found[group], Namespace):
                self.error(self._wrong_value(group, [KINDS["dict"]], str(found[group])))

    def _of_content(self, message: str) -> str:
        """Of a configuration's options, which are known by their dotted names."""
        unknown = re.match(r"(?:Group '(.+)' does not accept option|Option) '(.+)'", message)
        if unknown:
            name = ".".join(part for part in unknown.groups() if part)
            return unknown_option(name, [action.dest for action in self._actions if action.option_strings])
        if message.startswith("Unexpected config:"):
            return "there are no options in it. Give names with values: `oddetr train --print-config` shows all."
        return plain_yaml_error(message).replace("Problems parsing config:", "this is no YAML:")

    def _of_command(self, message: str) -> str:
        if missing := re.search(r"arguments are required: (.*)", message):
            shown = {action.dest: str(action.metavar or f"--{action.dest}") for action in self._actions}
            names = [shown.get(name, name) for name in missing[1].split(", ")]
            return f"give {' and '.join(names)}."
        if unknown := re.search(r"unrecognized arguments: (\S+)", message):
            return message + self._meant(unknown[1])
        return message

    def _meant(self, word: str) -> str:
        known = [option for action in self._actions for option in action.option_strings]
        if not word.startswith("-"):
            return f". Did you mean --data {word}?" if "--data" in known else ""
        near = [option.replace("_", "-") for option in difflib.get_close_matches(word, known, n=3)]
        return f". Did you mean {' or '.join(near)}?" if near else ""


class ConfigFile(ActionConfigFile):
    """`--config FILE`, whose errors name the file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Reads it, after a look at it alone."""
        if Path(values).is_file():
            parser.check_file(Path(values))
        super().__call__(parser, cfg, values, option_string)


def _found_wrong(message: str) -> tuple[str, list[str], str] | None:
    """The option whose value is of no kind that it takes, those kinds, and the value."""
    lone = re.match(r'Parser key "([\w.]+)":\s+Unable to load config \'(.*)\'', message)
    if lone:
        return lone[1], [KINDS["dict"]], lone[2]
    wrong = re.search(r'Parser key "([\w.]+)":\n.*?(?:Given|Got) value: ([^\n]*)', message, re.DOTALL)
    if not wrong:
        return None
    expected = re.sub("Given value type:[^\n]*", "", wrong[0])
    kinds = [text for kind, text in KINDS.items() if f"<class '{kind}'>" in expected]
    kinds += [word for words in re.findall(r"Literal\[(.*?)\]", expected) for word in re.findall(r"'(\w+)'", words)]
    return (wrong[1], kinds, wrong[2]) if kinds else None


def make_parser(verb: str, text: str, more: str | None = None) -> Parser:
    """The parser of `oddetr VERB`, which `text` describes; `more` is told after the options.

    No value may name something to import (`class_path`): configurations come from anywhere.
    """
    set_parsing_settings(import_path_denylist=["*"], instantiate_subclass_spec_in_any=False)
    return Parser(
        prog=f"oddetr {verb}",
        description=text,
        epilog=more,
        formatter_class=Help,
        parser_mode=YAML,
        exit_on_error=True,
        allow_abbrev=False,
    )


def parsed_values(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments by name, as values of their types. Ends the process where they are wrong."""
    parsed: Namespace = parser.parse_args(list(arguments))
    return parser.instantiate(parsed).as_dict()


def underscored(argument: str) -> str:
    """--image-size=3 -> --image_size=3: options are known by their Python names."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
