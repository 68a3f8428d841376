"""The command line and configuration files: options with dashes, and plain words for what is wrong."""

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
"""The `parser_mode` with which configurations are read."""


def read_yaml(text: str) -> Any:
    """Parse a configuration's YAML, with numbers in any notation (1e-3).

    Raises:
        yaml.YAMLError: it is no YAML, or has an alias.
    """
    refuse_aliases(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the one that jsonargparse takes
    return get_loader("yaml")(text)


set_loader(YAML, read_yaml, (yaml.YAMLError,))


class Help(DefaultHelpFormatter):
    """Show options with dashes and defaults without Python types, keep line breaks, and shorten the usage to what is
    required. (Options with underscores are understood too.)"""

    _types = re.compile(r"\s*\((?:required, )?(?:type: [^()]*?)?(?:(?:, )?default: ([^()]*))?\)$")

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """Replace the list of all options by the required ones."""
        needed = [self._format_args(action, action.dest) for action in actions if not action.option_strings]
        options = [action for action in actions if action.option_strings and action.required]
        needed += [f"--{action.dest} {action.metavar or action.dest.upper()}" for action in options]
        super().add_usage(" ".join([self._prog, *needed, "[options]"]), [], [], prefix)

    def _expand_help(self, action: argparse.Action) -> str:
        def default(found: re.Match[str]) -> str:
            value = {"True": "true", "False": "false"}.get(found[1], found[1])
            return "" if value in (None, "null", "") else f" (default: {value})"

        required = " (required)" if action.option_strings and action.required else ""
        return self._types.sub(default, super()._expand_help(action)) + required

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = super()._format_action_invocation(action)
        return re.sub(r"--[\w.]+", lambda option: option[0].replace("_", "-"), shown)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            textwrap.fill(line, width, subsequent_indent="    " if line.startswith("  ") else "")
            for line in text.splitlines()
        )


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
    """Say plainly what is wrong with a command or a configuration file, and what may have been meant.

    Attributes:
        file: the configuration file that is being read, if any; its options are named without dashes.
    """

    file: str | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2, or raise `argparse.ArgumentError` if `exit_on_error` is off."""
        if wrong := _wrong_value(message):
            message = self._kind_error(*wrong)
        else:
            message = self._content_error(message) if self._in_content else self._command_error(message)
        super().error(shown_lines(f"{self.file}: {message}" if self.file else message), ex)

    def instantiate(self, namespace: Namespace, *arguments: Any, **more: Any) -> Namespace:
        """As in jsonargparse, but refuse a single value in place of a group of options."""
        self._require_groups(namespace)
        return super().instantiate(namespace, *arguments, **more)

    def extend_help(self, option: str, text: str) -> None:
        """Append to an option's help."""
        action = next(action for action in self._actions if action.dest == option)
        action.help = f"{action.help} {text}"

    def check_file(self, file: Path) -> None:
        """Parse a configuration file by itself, so that errors in it name it."""
        self.file = str(file)
        try:
            configuration_text(file)
            self._require_groups(self.parse_path(file, env=False, defaults=False))
        finally:
            self.file = None

    @property
    def _in_content(self) -> bool:
        return self.file is not None or not self.exit_on_error

    def _kind_error(self, option: str, kinds: Sequence[str], value: str) -> str:
        shown = option if self._in_content else f"--{option.replace('_', '-')}"
        return f"{shown} takes {' or '.join(kinds)}, not {value!r}."

    def _require_groups(self, values: Namespace) -> None:
        for group in self.groups or ():
            if group in values and not isinstance(values[group], Namespace):
                self.error(self._kind_error(group, [KINDS["dict"]], str(values[group])))

    def _content_error(self, message: str) -> str:
        """Reword an error in a configuration, where options have dotted names."""
        if unknown := re.match(r"(?:Group '(.+)' does not accept option|Option) '(.+)'", message):
            name = ".".join(filter(None, unknown.groups()))
            return unknown_option(name, [action.dest for action in self._actions if action.option_strings])
        if message.startswith("Unexpected config:"):
            return "there are no options in it. Give names with values: `oddetr train --print-config` shows all."
        return plain_yaml_error(message).replace("Problems parsing config:", "this is no YAML:")

    def _command_error(self, message: str) -> str:
        if missing := re.search(r"arguments are required: (.*)", message):
            shown = {action.dest: str(action.metavar or f"--{action.dest}") for action in self._actions}
            return f"give {' and '.join(shown.get(name, name) for name in missing[1].split(', '))}."
        if unknown := re.search(r"unrecognized arguments: (\S+)", message):
            return message + self._suggestion(unknown[1])
        return message

    def _suggestion(self, word: str) -> str:
        known = [option for action in self._actions for option in action.option_strings]
        near = [f"--data {word}"] if "--data" in known else []
        if word.startswith("-"):
            near = [option.replace("_", "-") for option in difflib.get_close_matches(word, known, n=3)]
        return f". Did you mean {' or '.join(near)}?" if near else ""


class ConfigFile(ActionConfigFile):
    """`--config FILE`, whose errors name the file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Check the file by itself, then read it."""
        if Path(values).is_file():
            parser.check_file(Path(values))
        super().__call__(parser, cfg, values, option_string)


def _wrong_value(message: str) -> tuple[str, list[str], str] | None:
    """Find in jsonargparse's message the option with a value of the wrong kind, the kinds it takes, and the value."""
    if single := re.match(r'Parser key "([\w.]+)":\s+Unable to load config \'(.*)\'', message):
        return single[1], [KINDS["dict"]], single[2]
    wrong = re.search(r'Parser key "([\w.]+)":\n.*?(?:Given|Got) value: ([^\n]*)', message, re.DOTALL)
    if not wrong:
        return None
    expected = re.sub("Given value type:[^\n]*", "", wrong[0])
    kinds = [text for kind, text in KINDS.items() if f"<class '{kind}'>" in expected]
    kinds += [word for words in re.findall(r"Literal\[(.*?)\]", expected) for word in re.findall(r"'(\w+)'", words)]
    return (wrong[1], kinds, wrong[2]) if kinds else None


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


def parsed_values(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Parse arguments into values by name. Exits with code 2 if they are wrong."""
    return parser.instantiate(parser.parse_args(list(arguments))).as_dict()


def underscored(argument: str) -> str:
    """Convert --image-size=3 to --image_size=3: jsonargparse knows options by their Python names."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
