"""Published values that the tests hold this package to, each with its source."""

from typing import Final

EIGHT_ENTRIES: Final = tuple(
    bytes.fromhex(entry)
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
)
"""The entries on which Certificate Transparency's implementations test their trees."""

EIGHT_ENTRIES_ROOTS: Final = tuple(
    bytes.fromhex(root)
    for root in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
)
"""Their roots at sizes 0 to 8."""

INCLUSION_PREFIXES: Final = {
    (0, 8): ("96a296d224f285c6", "5f083f0a1a33ca07", "6b47aaf29ee3c2af"),
    (5, 8): ("bc1a0643b12e4d2d", "ca854ea128ed050b", "d37ee418976dd957"),
    (2, 3): ("fac54203e7cc696c",),
    (1, 5): ("6e340b9cffb37a98", "5f083f0a1a33ca07", "bc1a0643b12e4d2d"),
}
"""PATH(index, size) on them: the first 8 bytes of each hash."""

CONSISTENCY_PREFIXES: Final = {
    (1, 8): ("96a296d224f285c6", "5f083f0a1a33ca07", "6b47aaf29ee3c2af"),
    (6, 8): ("0ebc5d3437fbe2db", "ca854ea128ed050b", "d37ee418976dd957"),
    (2, 5): ("5f083f0a1a33ca07", "bc1a0643b12e4d2d"),
    (3, 7): ("0298d122906dcfc1", "07506a85fd9dd2f1", "fac54203e7cc696c", "837dbb152e9b0790"),
    (4, 7): ("837dbb152e9b0790",),
}
"""PROOF(old size, new size) on them: the first 8 bytes of each hash."""

TESSERA_VKEY: Final = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
"""Verifier key of Tessera's published test log; its base64 contains a `+`."""

TESSERA_ENTRIES: Final = (b"one", b"two", b"three", b"four", b"five")
"""The first entries of that log."""

TESSERA_ROOTS: Final = {
    1: "0Nc2CrefWKseHj/mStd+LqC8B+NrX0btIiPt2SmN+ek=",
    2: "T1X2GdkhUjV3iyufF9b0kVsWFxIU0VI4EpNml2Teci4=",
    3: "Wqx3HImawpLnS/Gv4ubjAvi1WIOy0b8Ze0amvqbavKk=",
    5: "gy5gl3aksFyiCO95a/1vLXz88A3dRq+0l9Sxte8ZqZQ=",
}
"""Roots by size that it published."""

NOTE_VKEY: Final = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
"""Key of the example in c2sp.org/signed-note."""

NOTE: Final = (
    b"This is an example message.\n"
    b"\n"
    b"\xe2\x80\x94 example.com/foo "
    b"Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
"""That example."""

GOLDEN_NAME: Final = "meter.example/p0"
GOLDEN_SEED: Final = bytes(range(32))
GOLDEN_VKEY: Final = "meter.example/p0+2070874b+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
GOLDEN_CHECKPOINT: Final = (
    b"meter.example/p0\n"
    b"8\n"
    b"XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n"
    b"\n"
    b"\xe2\x80\x94 meter.example/p0 "
    b"IHCHS0uTMVf8ORGaIDKBUjhmHFHBhnMK8WucCEr0lz822Dhj95g/9cewAY6qV8wPhM8QUBrbGfAQbkwRuDmUVICWiAQ=\n"
)
"""Our own golden checkpoint over the eight entries; Go's x/mod and two Python implementations accepted it."""

WITNESS_NAME: Final = "witness.example/w1"
WITNESS_SEED: Final = bytes(range(32, 64))
WITNESS_VKEY: Final = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
WITNESS_TIME_S: Final = 1_700_000_000
WITNESS_LINE: Final = (
    b"\xe2\x80\x94 witness.example/w1 "
    b"IDJKvgAAAABlU/EAOj8LR1w+BFGZRahz0l+qzfVNuZ47HWJS2FLEW/UzKuKfAkbOTduyEOHvmhVoMPWZbU4mG7dmVghT4kuMnP71AA==\n"
)
"""A witness's line under the golden checkpoint; an independent Python implementation accepted it for a quorum of 1."""
