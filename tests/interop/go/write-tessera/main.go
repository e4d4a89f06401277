// write-tessera [-entries N] [-bytes N] [-batch N] [-interval DURATION] LOGDIR VKEYFILE
//
// Writes (or goes on with) a tlog-tiles log by Tessera's POSIX storage, in this process, and writes down the key that
// verifies it. Entries are pseudo-random bytes, the same in every run; the key is a test key. Prints one JSON object:
// how long it took until the published checkpoint covered the last entry, and the process's own processor time of it,
// both from the moment at which the entries lay ready in memory.
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

const (
	origin  = "tessera.example/log"
	writers = 4
)

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func publishedSize(dir string, v note.Verifier) uint64 {
	content, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return 0
	}
	checkpoint, _, _, err := log.ParseCheckpoint(content, v.Name(), v)
	if err != nil {
		return 0
	}
	return checkpoint.Size
}

func run(dir, keyFile string, entries, size, batch int, interval time.Duration) error {
	seed := make([]byte, ed25519.SeedSize)
	public, err := note.NewEd25519VerifierKey(origin, ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	hash := strings.Split(public, "+")[1]
	key := base64.StdEncoding.EncodeToString(append([]byte{1}, seed...))
	signer, err := note.NewSigner(strings.Join([]string{"PRIVATE", "KEY", origin, hash, key}, "+"))
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, []byte(public+"\n"), 0o644); err != nil {
		return err
	}
	content := make([]byte, entries*size)
	rand.NewChaCha8([32]byte{1}).Read(content)

	ctx := context.Background()
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return err
	}
	before := publishedSize(dir, verifier)
	outstanding := max(2_000, 2*batch)
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(interval).
		WithBatching(uint(batch), 100*time.Millisecond).
		WithPushback(uint(2 * writers * outstanding))
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		return err
	}

	began, beganCPU := time.Now(), cpuSeconds()
	errors := make(chan error, writers)
	var group sync.WaitGroup
	for number := range writers {
		group.Add(1)
		go func() {
			defer group.Done()
			waiting := make([]tessera.IndexFuture, 0, outstanding)
			settle := func(left int) error {
				for len(waiting) > left {
					if _, err := waiting[0](); err != nil {
						return err
					}
					waiting = waiting[1:]
				}
				return nil
			}
			for entry := number; entry < entries; entry += writers {
				waiting = append(waiting, appender.Add(ctx, tessera.NewEntry(content[entry*size:(entry+1)*size])))
				if err := settle(outstanding); err != nil {
					errors <- err
					return
				}
			}
			if err := settle(0); err != nil {
				errors <- err
			}
		}()
	}
	group.Wait()
	select {
	case err := <-errors:
		return err
	default:
	}
	for publishedSize(dir, verifier) < before+uint64(entries) {
		time.Sleep(time.Millisecond)
	}
	seconds, cpu := time.Since(began).Seconds(), cpuSeconds()-beganCPU
	if err := shutdown(ctx); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"size": publishedSize(dir, verifier), "entries": entries, "seconds": seconds, "cpu_s": cpu,
	})
}

func main() {
	entries := flag.Int("entries", 1_000, "entries to add")
	size := flag.Int("bytes", 300, "bytes of each entry")
	batch := flag.Int("batch", 256, "entries per batch")
	interval := flag.Duration("interval", 100*time.Millisecond, "between checkpoints")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *entries, *size, *batch, *interval); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
