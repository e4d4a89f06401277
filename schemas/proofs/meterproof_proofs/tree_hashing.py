"""The hashing of trees, many hashes to one call: by the processor's SHA instructions where it has them, else in Python.

What the functions do stands in `python_tree_hashing`, which is their definition. `_tree_hashing.c` does the same 3 to 8
times as fast, since a digest of a short content costs Python 0.5 µs and the processor 0.1 µs. It is there if a C
compiler was when this package was installed, and if this is an x86 processor with SHA extensions.
"""

from meterproof_proofs.python_tree_hashing import hashes_in

try:
    from meterproof_proofs._tree_hashing import digests, extended, joined, leaf_hashes, pair_hashes, text_tree
except ImportError:
    from meterproof_proofs.python_tree_hashing import digests, extended, joined, leaf_hashes, pair_hashes, text_tree

__all__ = ["digests", "extended", "hashes_in", "joined", "leaf_hashes", "pair_hashes", "text_tree"]
