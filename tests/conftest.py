"""Options and fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--collections",
        default=str(ROOT.parent / "shared" / "data"),
        help="folder of real collections in BEIR layout; the tests on them are skipped where it is absent",
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def collections(request: pytest.FixtureRequest) -> Path:
    """The folder of real collections; skips where there is none."""
    folder = Path(request.config.getoption("--collections"))
    if not folder.is_dir():
        pytest.skip(f"no real collections in {folder}: pass --collections DIR")
    return folder
