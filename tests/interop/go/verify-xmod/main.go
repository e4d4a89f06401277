// verify-xmod [-old CHECKPOINT]... LOGDIR VKEYFILE
//
// Verifies a tlog-tiles directory with golang.org/x/mod/sumdb/{note,tlog}: the checkpoint's signature, the root, every
// entry against its authenticated leaf hash, inclusion of a sample, and that the log extends every remembered checkpoint.
// Own glue: the map of paths, and cutting bundles into entries. Exit 0: it holds; 1: refused; 2: wrong usage.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type files struct{ dir string }

// place turns x/mod's tile/8/<rest> into tile/<rest>.
func place(t tlog.Tile) string {
	path := strings.TrimPrefix(t.Path(), "tile/8/")
	return "tile/" + strings.Replace(path, "data/", "entries/", 1)
}

func (f files) read(t tlog.Tile) ([]byte, error) { return os.ReadFile(filepath.Join(f.dir, place(t))) }
func (f files) Height() int                      { return 8 }
func (f files) SaveTiles([]tlog.Tile, [][]byte)  {}
func (f files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, t := range tiles {
		data, err := f.read(t)
		if err != nil {
			return nil, err
		}
		if len(data) != t.W*tlog.HashSize {
			return nil, fmt.Errorf("%s: %d bytes for width %d", place(t), len(data), t.W)
		}
		all = append(all, data)
	}
	return all, nil
}

func open(path string, v note.Verifier) (tlog.Tree, error) {
	signed, err := os.ReadFile(path)
	if err != nil {
		return tlog.Tree{}, err
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != v.Name() {
		return tlog.Tree{}, fmt.Errorf("%s: not a checkpoint of %s", path, v.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || strconv.FormatInt(size, 10) != lines[1] || size < 0 {
		return tlog.Tree{}, fmt.Errorf("%s: size %q", path, lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

func check(dir, keyFile string, old []string) error {
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(key)))
	if err != nil {
		return err
	}
	tree, err := open(filepath.Join(dir, "checkpoint"), v)
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tree, files{dir})
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return fmt.Errorf("root %v, signed %v", root, tree.Hash)
	}
	for begin := int64(0); begin < tree.N; begin += 256 {
		width := min(256, tree.N-begin)
		bundle, err := files{dir}.read(tlog.Tile{H: 8, L: -1, N: begin / 256, W: int(width)})
		if err != nil {
			return err
		}
		var indexes []int64
		for i := range width {
			indexes = append(indexes, tlog.StoredHashIndex(0, begin+i))
		}
		leaves, err := hashes.ReadHashes(indexes)
		if err != nil {
			return err
		}
		for i := range width {
			if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
				return fmt.Errorf("entry %d: bundle too short", begin+i)
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			if tlog.RecordHash(bundle[2:end]) != leaves[i] {
				return fmt.Errorf("entry %d is not the logged one", begin+i)
			}
			bundle = bundle[end:]
		}
		if len(bundle) != 0 {
			return fmt.Errorf("%d bytes after entry %d", len(bundle), begin+width-1)
		}
	}
	for i := int64(0); i < tree.N; i += max(1, tree.N/100) {
		proof, err := tlog.ProveRecord(tree.N, i, hashes)
		if err != nil {
			return err
		}
		leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, i)})
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, i, leaf[0]); err != nil {
			return err
		}
	}
	for _, path := range old {
		before, err := open(path, v)
		if err != nil {
			return err
		}
		if before.N > tree.N {
			return fmt.Errorf("rolled back: %d entries were signed before, now %d", before.N, tree.N)
		}
		if before.N == 0 {
			continue
		}
		proof, err := tlog.ProveTree(tree.N, before.N, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, before.N, before.Hash); err != nil {
			return err
		}
	}
	fmt.Printf("%d entries hold, %d earlier checkpoints are extended\n", tree.N, len(old))
	return nil
}

func main() {
	var old []string
	flag.Func("old", "a checkpoint remembered from before", func(path string) error {
		old = append(old, path)
		return nil
	})
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := check(flag.Arg(0), flag.Arg(1), old); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
