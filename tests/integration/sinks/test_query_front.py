"""Other processes read an owned ClickHouse folder over HTTP: exactly, and without being able to change anything."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, Escaped
from meterproof_sinks.query_front import QueryFront, read_endpoint
from tests.integration.sinks.clickhouse_folder import new_sink, one, opened
from tests.rated_log import RatedLog, costs

pytestmark = pytest.mark.clickhouse


class Served:
    """An endpoint, the log behind it, and a client of it."""

    def __init__(self, front: QueryFront, owner: ClickHouse, folder: Path, log: RatedLog) -> None:
        self.front, self.owner, self.folder, self.log = front, owner, folder, log

    async def ask(self, sql: str, *, headers: dict[str, str] | None = None, **query: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.front.url, data=sql.encode(), params=query, headers=headers) as response,
        ):
            return response.status, await response.text()


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ClickHouse, RatedLog]]:
    """A log in a folder, for all tests of this file: one of them writes, another log."""
    log = RatedLog(seed=21)
    log.grow(8)
    with opened(tmp_path_factory.mktemp("front") / "clickhouse") as owner:
        asyncio.run(new_sink(owner).write(0, log.genesis, log.records))
        yield owner, log


@pytest.fixture
async def served(carried: tuple[ClickHouse, RatedLog]) -> AsyncIterator[Served]:
    owner, log = carried
    async with QueryFront(owner.folder) as front:
        yield Served(front, owner, owner.folder, log)
    assert read_endpoint(owner.folder) is None


async def test_it_says_where_it_is_while_it_lives(served: Served) -> None:
    endpoint = read_endpoint(served.folder)
    assert endpoint is not None
    assert (endpoint.url, endpoint.pid) == (served.front.url, os.getpid())
    (served.folder / "endpoint.json").write_bytes(orjson.dumps({"url": served.front.url, "pid": 2**22 + 1}))
    assert read_endpoint(served.folder) is None, "of a process that is gone nothing is believed"


async def test_it_answers_as_clickhouse_does(served: Served) -> None:
    size = served.log.state.position
    assert await served.ask(f"SELECT count() FROM usage WHERE log = '{served.log.origin}'") == (200, f"{size}\n")
    assert await served.ask("SELECT 7 AS n", default_format="JSONEachRow") == (200, '{"n":7}\n')
    assert await served.ask("SELECT 1 AS n FORMAT CSVWithNames", default_format="JSON") == (200, '"n"\n1\n')
    assert await served.ask("", query="SELECT 2") == (200, "2\n")
    assert await served.ask("") == (200, "Ok.\n")
    assert await served.ask("SELECT 3 ; -- the end\n") == (200, "3\n")
    assert await served.ask("/* a */ -- b\n( SELECT 4 )") == (200, "4\n")
    assert await served.ask("SELECT 'FORMAT', 5 AS `;` FORMAT CSV -- ;") == (200, '"FORMAT",5\n')
    assert await served.ask("SELECT ';', '--', $a$;$a$ FORMAT TSVRaw") == (200, ";\t--\t;\n")
    async with aiohttp.ClientSession() as session, session.get(f"{served.front.url}/ping") as response:
        assert (response.status, await response.text()) == (200, "Ok.\n")


async def test_parameters_are_bound_and_never_pasted(served: Served) -> None:
    hostile = "it's'; DROP TABLE usage_rows; --"
    assert await served.ask("SELECT {x:String} FORMAT TSVRaw", param_x=hostile) == (200, f"{hostile}\n")
    assert await served.ask("SELECT {x:String} FORMAT TSVRaw", param_x="a\\tb\\\\c") == (200, "a\tb\\c\n")
    assert await served.ask("SELECT {x:Array(String)}[2] FORMAT TSVRaw", param_x="['a','b\\'c']") == (200, "b'c\n")
    assert await served.ask("SELECT '100%s', {n:UInt8}", param_n="5", param_unused="%d") == (200, "100%s\t5\n")
    assert await served.ask("SELECT '100%s'", param_unused="%d") == (200, "100%s\n")
    status, text = await served.ask("SELECT {n:UInt8}")
    assert status == 500
    assert "n" in text


async def test_money_is_never_rounded(served: Served) -> None:
    spend = sum(costs(served.log.records), Decimal(0))
    query = f"SELECT sum(cost) AS spend FROM usage WHERE log = '{served.log.origin}'"
    _, text = await served.ask(query, default_format="JSONEachRow")
    assert orjson.loads(text) == {"spend": format(spend.normalize(), "f")}


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO record_lines (lines) VALUES ('x')",
        "DROP TABLE usage_rows",
        "ALTER TABLE usage_rows DELETE WHERE 1",
        "TRUNCATE TABLE usage_rows",
        "CREATE TABLE t (a Int8) ENGINE = Memory",
        "CREATE TEMPORARY TABLE t (a Int8)",
        "SET readonly = 0",
        "USE default",
        "SYSTEM STOP MERGES",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1; DROP TABLE usage_rows",
        "SELECT 1 -- '\n; DROP TABLE usage_rows",
        "SELECT 1 FROM numbers(1) INTO OUTFILE '{outside}'",
        "SELECT 1 INTO/**/outfile '{outside}'",
        "WITH 1 AS x SELECT x INTO OUTFILE '{outside}' FORMAT CSV",
        "INSERT INTO FUNCTION file('{outside}') SELECT 1",
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:9/', 'LineAsString')",
        "EXPLAIN ESTIMATE SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "",
    ],
)
async def test_nothing_can_be_changed_through_it(served: Served, tmp_path: Path, sql: str) -> None:
    outside = tmp_path / "outside"
    status, text = await served.ask(sql.replace("{outside}", str(outside)) or "-- nothing")
    assert status == 500
    assert "DB::Exception" in text
    assert not outside.exists()
    count = one(served.owner, "SELECT count() FROM usage WHERE log = {l:String}", {"l": served.log.origin})
    assert count == served.log.state.position
    assert await served.ask("SELECT currentDatabase()") == (200, "meterproof\n")


async def test_settings_of_a_query_are_refused_and_not_ignored(served: Served) -> None:
    status, text = await served.ask("SELECT 1", max_result_rows="1")
    assert status == 500
    assert "max_result_rows" in text


async def test_a_failed_query_leaves_nothing_behind_for_the_next(served: Served) -> None:
    for _ in range(4):
        status, text = await served.ask("SELECT number, throwIf(number = 1000000) FROM numbers(2000000)")
        assert status == 500
        assert "Code: 395" in text
        assert await served.ask("SELECT 'clean'") == (200, "clean\n")


async def test_browsers_are_turned_away(served: Served) -> None:
    assert (await served.ask("SELECT 1", headers={"Origin": "https://evil.example"}))[0] == 403
    assert (await served.ask("SELECT 1", headers={"Host": "evil.example:80"}))[0] == 403


async def test_clickhouse_s_own_client_works_through_it(served: Served) -> None:
    query = "SELECT position, cost, usage FROM usage WHERE id = {i:String} AND log = {l:String}"

    def ask() -> tuple[Any, ...]:
        client = ClickHouse.connect(served.front.url)
        try:
            rows = client.rows(query, {"i": "r1", "l": served.log.origin})
            raw = client.raw("SELECT {x:String} AS x", "JSONEachRow", {"x": Escaped("it\\'s")})
            with pytest.raises(ClickHouseError, match="READONLY"):
                client.command("DROP TABLE usage_rows")
            return rows, raw
        finally:
            client.close()

    rows, raw = await asyncio.to_thread(ask)
    assert rows == served.owner.rows(query, {"i": "r1", "l": served.log.origin})
    assert len(rows) == 1
    assert orjson.loads(raw) == {"x": "it's"}


async def test_many_ask_while_the_sink_writes(served: Served) -> None:
    more = RatedLog(seed=22, epoch="dd" * 16, partition=1, partitions=2)
    more.grow(20)
    sink = new_sink(served.owner)
    query = "SELECT log, count(), max(position) + 1 FROM usage GROUP BY log"

    async def write() -> None:
        for number in range(0, len(more.records), 3):
            await sink.write(1, more.genesis, more.records[number : number + 3])

    async def read() -> None:
        for _ in range(10):
            status, text = await served.ask(query)
            assert status == 200
            for line in text.splitlines():
                _, count, size = line.split("\t")
                assert count == size, "what is read is whole, at every moment"

    await asyncio.gather(write(), *(read() for _ in range(4)))
    assert f"{more.state.position}\t{more.state.position}" in (await served.ask(query))[1]
