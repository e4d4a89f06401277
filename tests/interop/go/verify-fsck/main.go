// verify-fsck LOGDIR VKEYFILE
//
// Verifies a tlog-tiles directory with Tessera's fsck package. Its released command is no gate: with one worker it waits
// for ever on a corrupted log, and it exits 0 whatever it found. So: many workers, a watchdog, exit codes that tell.
// Exit 0: it holds; 1: refused; 2: wrong usage; 3: it did not come to an end.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

func leaves(bundle []byte) ([][]byte, error) {
	var entries api.EntryBundle
	if err := entries.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	var hashes [][]byte
	for _, entry := range entries.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
	}
	return hashes, nil
}

func check(dir, keyFile string) error {
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(key)))
	if err != nil {
		return err
	}
	return fsck.New(v.Name(), v, client.FileFetcher{Root: dir}, leaves, fsck.Opts{N: 64}).Check(context.Background())
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: verify-fsck LOGDIR VKEYFILE")
		os.Exit(2)
	}
	time.AfterFunc(time.Minute, func() {
		fmt.Fprintln(os.Stderr, "no end after a minute")
		os.Exit(3)
	})
	if err := check(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("it holds")
}
