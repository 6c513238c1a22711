package sys

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestTryLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := TryLockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := TryLockFile(path); !errors.Is(err, ErrLocked) || second != nil {
		t.Errorf("a lock that is held was taken: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := TryLockFile(path)
	if err != nil {
		t.Fatalf("a lock that was freed: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}
	if _, err := TryLockFile(filepath.Join(path, "below", "a", "file")); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("a lock that cannot be made: %v", err)
	}
}
