from collections.abc import Callable

def read_plain_lines(
    text: bytes, start: int, /
) -> tuple[list[int], list[str], list[bytes], list[int], set[str]] | None: ...
def price_plain_lines(
    text: bytes, start: int, count: int, prices_of: Callable[[str, str, str], dict[str, int]], /
) -> tuple[bytes, bytes] | None: ...
