package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestScratchFS(t *testing.T) {
	const size = 1 << 20
	s, err := NewScratchFS(size)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dir := s.Dir()
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
		t.Errorf("root directory: %v, %v", info, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "kept" {
		t.Errorf("read %q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, size), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("more than fits was written: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "size=1024k,mode=700") {
		t.Error("it is mounted somewhere")
	}
	if err := errors.Join(s.Close(), s.Close(), (*ScratchFS)(nil).Close()); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is there after Close")
	}
}
