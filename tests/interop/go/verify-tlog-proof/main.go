// verify-tlog-proof VKEYFILE PROOF ENTRY
//
// Verifies an offline proof (c2sp.org/tlog-proof) of an entry twice: with filippo.io/torchwood, and with
// github.com/transparency-dev/{formats,merkle}. Exit 0: both accept; 1: both refuse; 2: wrong usage; 3: they differ.
package main

import (
	"fmt"
	"os"
	"strings"

	"filippo.io/torchwood"
	"github.com/transparency-dev/formats/log"
	formats "github.com/transparency-dev/formats/proof"
	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func withTorchwood(v note.Verifier, file, entry []byte) error {
	policy := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(v.Name()), torchwood.SingleVerifierPolicy(v))
	return torchwood.VerifyProof(policy, tlog.RecordHash(entry), file)
}

func withFormats(v note.Verifier, file, entry []byte) error {
	var parsed formats.TLogProof
	if err := parsed.Unmarshal(file); err != nil {
		return err
	}
	checkpoint, _, _, err := log.ParseCheckpoint(parsed.Checkpoint, v.Name(), v)
	if err != nil {
		return err
	}
	var hashes [][]byte
	for _, hash := range parsed.Hashes {
		hashes = append(hashes, hash[:])
	}
	leaf := rfc6962.DefaultHasher.HashLeaf(entry)
	return merkle.VerifyInclusion(rfc6962.DefaultHasher, parsed.Index, checkpoint.Size, leaf, hashes, checkpoint.Hash)
}

func read(path string) []byte {
	content, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return content
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: verify-tlog-proof VKEYFILE PROOF ENTRY")
		os.Exit(2)
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(read(os.Args[1]))))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	file, entry := read(os.Args[2]), read(os.Args[3])
	first, second := withTorchwood(v, file, entry), withFormats(v, file, entry)
	fmt.Fprintln(os.Stderr, "torchwood:", first, "\nformats and merkle:", second)
	if (first == nil) != (second == nil) {
		os.Exit(3)
	}
	if first != nil {
		os.Exit(1)
	}
}
