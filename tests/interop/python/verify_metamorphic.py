"""verify_metamorphic.py CASE.json: a signed checkpoint, inclusion and consistency proofs, with `metamorphic-log`.

The case: {checkpoint, vkey, proofs: [{index, leaf, hashes}], old: [{checkpoint, hashes}]}, all bytes in base64.
Exit 0: all hold; 1: one is refused.
"""

import base64
import json
import sys
from pathlib import Path

import metamorphic_log as outside  # type: ignore[import-not-found]  # it lives in a venv of its own

given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
note = base64.b64decode(given["checkpoint"]).decode()
keys = [given["vkey"]]
try:
    outside.checkpoint_verify(note, keys)
    for proof in given["proofs"]:
        hashes = [base64.b64decode(one) for one in proof["hashes"]]
        outside.checkpoint_verify_inclusion(note, keys, proof["index"], base64.b64decode(proof["leaf"]), hashes)
    for old in given["old"]:
        hashes = [base64.b64decode(one) for one in old["hashes"]]
        outside.checkpoint_verify_consistency(base64.b64decode(old["checkpoint"]).decode(), note, keys, hashes)
except outside.VerifyError as error:
    sys.exit(f"{type(error).__name__}: {error}")
