"""Options and places that several test rooms share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", type=Path, default=SHARED / "golden", help="folder of reference outputs of the official implementations"
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not there: {folder}")
    return folder
