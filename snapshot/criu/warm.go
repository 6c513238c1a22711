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
)

// Warm returns a Tool that uses a cache of kernel features in dir, which saves each operation the time to probe them.
// The cache is made if dir has none for this boot of the kernel and this build of the binary. Any number of processes
// may call Warm on the same dir.
func (t Tool) Warm(ctx context.Context, dir string) (Tool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return t, err
	}
	name, err := t.cacheName()
	if err != nil {
		return t, err
	}
	warm := Tool{Path: t.Path, Kerndat: filepath.Join(dir, name), cache: defaultCache}
	if c := compiledCache(t.Path); c != "" {
		warm.cache = c
	}
	lock, err := sys.LockFile(filepath.Join(dir, "kerndat.lock"))
	if err != nil {
		return t, err
	}
	defer lock.Close()
	if _, err := os.Stat(warm.Kerndat); err == nil {
		return warm, nil
	}
	content, err := t.probe(ctx, warm.cache)
	if err != nil {
		return t, fmt.Errorf("make a kernel feature cache for %s: %w", t.Path, err)
	}
	tmp := warm.Kerndat + ".new"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return t, err
	}
	return warm, os.Rename(tmp, warm.Kerndat)
}

// cacheName names the cache after all that it depends on.
func (t Tool) cacheName() (string, error) {
	fi, err := os.Stat(t.Path)
	if err != nil {
		return "", err
	}
	boot, err := proc.BootID()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %s", boot, fi.Size(), fi.ModTime().UnixNano(), t.Path))
	return hex.EncodeToString(sum[:8]) + ".kdat", nil
}

// probe has criu probe the kernel with a tmpfs, seen by nobody else, in the place where it then writes the cache.
func (t Tool) probe(ctx context.Context, cache string) ([]byte, error) {
	var content []byte
	err := sys.Aside(func() error {
		if err := unshareMounts(); err != nil {
			return err
		}
		run := filepath.Dir(cache)
		if err := syscall.Mount("tmpfs", run, "tmpfs", 0, "mode=700"); err != nil {
			return fmt.Errorf("mount a tmpfs over %s: %w", run, err)
		}
		resp, err := Tool{Path: t.Path}.ask(ctx, &rpc.CriuReq{
			Type:     rpc.CriuReqType_FEATURE_CHECK.Enum(),
			Features: &rpc.CriuFeatures{MemTrack: new(true)},
		})
		if err != nil {
			return err
		}
		if !resp.GetSuccess() {
			return errors.New("criu could not probe the kernel")
		}
		content, err = os.ReadFile(cache)
		return err
	})
	return content, err
}

// compiledCache finds the path of the cache in a criu binary: a string constant that ends in "/criu.kdat".
func compiledCache(binary string) string {
	b, err := os.ReadFile(binary)
	if err != nil {
		return ""
	}
	end := bytes.Index(b, []byte("/criu.kdat\x00"))
	if end < 0 {
		return ""
	}
	start := bytes.LastIndexByte(b[:end], 0) + 1
	path := string(b[start:end]) + "/criu.kdat"
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return ""
	}
	return path
}
