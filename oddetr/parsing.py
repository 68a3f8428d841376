"""How the command line is read: options with dashes, plain words for what is wrong."""

import argparse
import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import (
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    get_loader,
    set_loader,
    set_parsing_settings,
)

from oddetr.untrusted import refuse_aliases
from oddetr.words import shown_lines

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


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


class Parser(ArgumentParser):
    """Says plainly what is wrong with a command, and what may have been meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the process with exit code 2."""
        wrong = re.search(r'Parser key "([\w.]+)":\n.*?(?:Given|Got) value: ([^\n]*)', message, re.DOTALL)
        expected = re.sub("Given value type:[^\n]*", "", wrong[0]) if wrong else ""
        kinds = [text for kind, text in _KINDS.items() if f"<class '{kind}'>" in expected]
        kinds += [word for words in re.findall(r"Literal\[(.*?)\]", expected) for word in re.findall(r"'(\w+)'", words)]
        if wrong and kinds:
            option = wrong[1].replace("_", "-")
            message = f"--{option} takes {' or '.join(kinds)}, not {wrong[2]!r}."
        missing = re.search(r"arguments are required: (.*)", message)
        if missing:
            shown = {action.dest: str(action.metavar or f"--{action.dest}") for action in self._actions}
            names = [shown.get(name, name) for name in missing[1].split(", ")]
            message = f"give {' and '.join(names)}."
        unknown = re.search(r"unrecognized arguments: (--[\w.]+)", message)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            near = [option.replace("_", "-") for option in difflib.get_close_matches(unknown[1], known, n=3)]
            message += f". Did you mean {' or '.join(near)}?" if near else ""
        super().error(shown_lines(message), ex)


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
