package criu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/rpc"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// defaultCache is where CRIU keeps its cache of kernel features unless it was built for another directory.
const defaultCache = "/run/criu.kdat"

// Warm checks the tool (see Check) and makes sure that CRIU has a cache of kernel features, which saves each operation
// some 40 ms. Both are done once for this boot of the kernel and this build of the binary; a note in dir says that they
// were. Any number of processes may call Warm on the same dir.
//
// CRIU keeps its cache only on a tmpfs, in a directory compiled into it; where that is not one it probes the kernel each
// time. It trusts what it finds there, so Warm refuses a directory that others than root can write to.
func (t Tool) Warm(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name, err := t.noteName()
	if err != nil {
		return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "check", On: t.Path, Err: err, Hint: setupHint}
	}
	note := filepath.Join(dir, name)
	if _, err := os.Stat(note); err == nil {
		return nil
	}
	lock, err := sys.LockFile(filepath.Join(dir, "criu.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Stat(note); err == nil {
		return nil
	}
	if err := t.Check(ctx); err != nil {
		return err
	}
	if err := ownCacheDir(filepath.Dir(compiledCache(t.Path))); err != nil {
		return err
	}
	resp, err := t.ask(ctx, &rpc.CriuReq{
		Type:     rpc.CriuReqType_FEATURE_CHECK.Enum(),
		Features: &rpc.CriuFeatures{MemTrack: new(true)},
	})
	if err == nil && !resp.GetSuccess() {
		err = errors.New("criu could not probe the kernel")
	}
	if err != nil {
		return fmt.Errorf("have %s probe the kernel: %w", t.Path, err)
	}
	return os.WriteFile(note, nil, 0o600)
}

// noteName names the note after all that it depends on.
func (t Tool) noteName() (string, error) {
	fi, err := os.Stat(t.Path)
	if err != nil {
		return "", err
	}
	boot, err := proc.BootID()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %s", boot, fi.Size(), fi.ModTime().UnixNano(), t.Path))
	return "criu-" + hex.EncodeToString(sum[:8]), nil
}

// ownCacheDir makes the directory of CRIU's cache if it is missing, and refuses one that is not root's alone.
func ownCacheDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the directory of CRIU's cache: %w", err)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() || st.Mode().Perm()&0o022 != 0 || st.Sys().(*syscall.Stat_t).Uid != 0 {
		return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "check", On: dir,
			Err:  errors.New("CRIU trusts what it finds there, and others than root can write to it"),
			Hint: "find out who made it, and remove it"}
	}
	return nil
}

// compiledCache finds the path of the cache in a criu binary: a string constant that ends in "/criu.kdat".
func compiledCache(binary string) string {
	b, err := os.ReadFile(binary)
	if err != nil {
		return defaultCache
	}
	end := bytes.Index(b, []byte("/criu.kdat\x00"))
	if end < 0 {
		return defaultCache
	}
	start := bytes.LastIndexByte(b[:end], 0) + 1
	path := string(b[start:end]) + "/criu.kdat"
	if !filepath.IsAbs(path) {
		return defaultCache
	}
	return filepath.Clean(path)
}
