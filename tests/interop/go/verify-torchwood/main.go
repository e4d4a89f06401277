// verify-torchwood LOGDIR VKEYFILE [WITNESSVKEY]
//
// Verifies a tlog-tiles directory with filippo.io/torchwood: the checkpoint by policy (with a witness, if one is given),
// and every entry through its authenticating client. Exit 0: it holds; 1: refused; 2: wrong usage.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func check(dir, keyFile string, witness []string) error {
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(key)))
	if err != nil {
		return err
	}
	policies := []torchwood.Policy{torchwood.OriginPolicy(v.Name()), torchwood.SingleVerifierPolicy(v)}
	for _, vkey := range witness {
		w, err := torchwood.NewCosignatureVerifier(vkey)
		if err != nil {
			return err
		}
		policies = append(policies, torchwood.SingleVerifierPolicy(w))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	reader, err := torchwood.NewTileFS(root.FS())
	if err != nil {
		return err
	}
	ctx := context.Background()
	signed, err := reader.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		return err
	}
	checkpoint, _, err := torchwood.VerifyCheckpoint(signed, torchwood.ThresholdPolicy(len(policies), policies...))
	if err != nil {
		return err
	}
	client, err := torchwood.NewClient(reader)
	if err != nil {
		return err
	}
	var count int64
	for index := range client.AllEntries(ctx, tlog.Tree{N: checkpoint.N, Hash: checkpoint.Hash}, 0) {
		if index != count {
			return fmt.Errorf("entry %d where %d is due", index, count)
		}
		count++
	}
	if err := client.Err(); err != nil {
		return err
	}
	if count != checkpoint.N {
		return fmt.Errorf("%d entries of %d", count, checkpoint.N)
	}
	fmt.Printf("%d entries hold\n", count)
	return nil
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: verify-torchwood LOGDIR VKEYFILE [WITNESSVKEY]")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
