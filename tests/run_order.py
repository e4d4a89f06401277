"""A pytest plugin for `./dev test`: in which order files are handed to the processes that run them side by side.

1. What is marked `slow` begins first: a file that begins late would end alone, with the other processes idle.
2. Tests with a broker wait for other processes most of the time, the others compute: so files of the one kind are
   spread evenly between those of the other, and whoever waits leaves the cores to somebody who computes.
3. A process gets whole files, so that what a file sets up is set up once; and the files that look at what one run of
   the demo left behind go to one process, so that it runs once.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

OF_THE_DEMO = frozenset(f"tests/integration/local/test_{name}.py" for name in ("demo", "outsiders", "trace"))


class Files(LoadFileScheduling):  # type: ignore[misc]  # xdist states no types
    """Hands out file by file; lives as long as the run, in the process that starts the others."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "the demo" if file in OF_THE_DEMO else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    """Replace the choice of `--dist`."""
    return Files(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; the tests of each stay as they are."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    waiting = [tests for tests in files.values() if _any_marked(tests, "broker")]
    computing = [tests for tests in files.values() if not _any_marked(tests, "broker")]
    waiting.sort(key=lambda tests: not _any_marked(tests, "slow"))
    items[:] = [item for tests in _spread(waiting, computing) for item in tests]


def _any_marked(tests: list[pytest.Item], name: str) -> bool:
    return any(test.get_closest_marker(name) for test in tests)


def _spread(first: list[list[pytest.Item]], second: list[list[pytest.Item]]) -> list[list[pytest.Item]]:
    """Both lists in one, each in its own order and evenly distributed; begins with one of `first`."""
    placed = [
        ((number + late) / (len(files) + late), files[number])
        for late, files in enumerate((first, second))
        for number in range(len(files))
    ]
    return [tests for _, tests in sorted(placed, key=lambda pair: pair[0])]
