"""A pytest plugin for `./dev test`: in which order files are handed to the processes that run them side by side.

1. What is marked `slow` begins first: a file that begins late would end alone, with the other processes idle.
2. Tests with a broker wait for other processes most of the time, the others compute: so files of the one kind are
   spread evenly between those of the other, and whoever waits leaves the cores to somebody who computes.
"""

import pytest


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
