"""Where an identity may stand: in C where a compiler was when this package was installed, else in Python.

What it does stands in `python_place_table`, which is its definition. `_place_table.c` does the same 100 times as fast.
"""

try:
    from meterproof_stream._place_table import PLACES, PlaceTable, places_of
except ImportError:
    from meterproof_stream.python_place_table import (  # type: ignore[assignment]
        PLACES,
        PlaceTable,
        places_of,
    )

__all__ = ["PLACES", "PlaceTable", "places_of"]
