import io
from pathlib import Path

import pytest
from rich.table import Table

from oddetr.cli import main
from oddetr.common.terminal import Terminal

HOSTILE = "\x1b]0;title\x07\x1b[2Jcat\r\x9b31mdog\udcff"
HARMLESS = r"\x1b]0;title\x07\x1b[2Jcat\r\x9b31mdog\udcff"


def test_terminal_prints_escape_sequences_as_text() -> None:
    stream = io.StringIO()
    out = Terminal(file=stream, force_terminal=True, color_system=None, width=100)
    table = Table(HOSTILE)
    table.add_row(HOSTILE)

    out.print(HOSTILE)
    out.print(table)
    out.print(HOSTILE, style="red")

    text = stream.getvalue()
    assert text.count(HARMLESS) == 4
    assert not set(text) & set("\x1b\x07\r\x9b\udcff")


def test_terminal_leaves_other_scripts_and_line_breaks() -> None:
    stream = io.StringIO()
    Terminal(file=stream, width=100).print("猫, Straßenbahn\nЩи [bold]x[/bold]")
    assert stream.getvalue() == "猫, Straßenbahn\nЩи [bold]x[/bold]\n"


@pytest.mark.parametrize("command", [["check", "{}"], ["evaluate", "{}"], ["train", "--{}"]])
def test_errors_print_escape_sequences_in_paths_as_text(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([word.format(tmp_path / HOSTILE[:-1]) for word in command])
    except SystemExit as ended:  # argparse's way
        code = ended.code

    told = capsys.readouterr()
    assert code in (1, 2)
    assert HARMLESS[:-6] in (told.out + told.err).replace("\n", "")
    assert not set(told.out + told.err) & set("\x1b\x07\r\x9b")


def test_command_when_a_path_is_no_utf_8_then_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "\udce9t\udce9")]) == 2
    assert "\\udce9t\\udce9 is not UTF-8. Give the file or folder another name." in capsys.readouterr().err
