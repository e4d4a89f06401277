// verify-sigstore.js CASE.json
//
// Verifies a signed checkpoint and inclusion proofs under it with @sigstore/verify, as it does for its own log. The case:
// {checkpoint, publicKey (SPKI, base64), keyHint (hex), name, proofs: [{index, entry, hashes}]}, all bytes in base64.
// Exit 0: all hold; 1: one is refused; 2: wrong usage.
"use strict";

const { createPublicKey } = require("node:crypto");
const { readFileSync } = require("node:fs");

// These are not public modules of the package: its version is pinned.
const { verifyCheckpoint } = require("@sigstore/verify/dist/tlog/checkpoint.js");
const { verifyMerkleInclusion } = require("@sigstore/verify/dist/tlog/merkle.js");

if (process.argv.length !== 3) {
  console.error("usage: verify-sigstore.js CASE.json");
  process.exit(2);
}
const bytes = (text) => Buffer.from(text, "base64");
const given = JSON.parse(readFileSync(process.argv[2], "utf8"));
const logs = [
  {
    logID: Buffer.from(given.keyHint, "hex"),
    baseURL: given.name,
    publicKey: createPublicKey({ key: bytes(given.publicKey), format: "der", type: "spki" }),
  },
];
try {
  for (const { index, entry, hashes } of given.proofs) {
    const inclusionProof = {
      logIndex: String(index),
      hashes: hashes.map(bytes),
      checkpoint: { envelope: bytes(given.checkpoint).toString("utf8") },
    };
    const checkpoint = verifyCheckpoint({ inclusionProof }, logs);
    verifyMerkleInclusion({ inclusionProof, canonicalizedBody: bytes(entry) }, checkpoint);
  }
  console.log(`${given.proofs.length} entries are proved`);
} catch (error) {
  console.error(String(error));
  process.exit(1);
}
