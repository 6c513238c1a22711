package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKilobytes(t *testing.T) {
	got := kilobytes("MemAvailable:   12 kB\nHugePages_Total:    3\nPrivate_Dirty:        7 kB\nbroken kB\nName:\tx: 4 kB\n")
	if len(got) != 2 || got["MemAvailable"] != 12<<10 || got["Private_Dirty"] != 7<<10 {
		t.Errorf("%v", got)
	}
}

func TestCost(t *testing.T) {
	before := memory{available: 1000, slab: 100, stacks: 100, percpu: 50, shim: 10, descriptors: 5}
	after := memory{available: 200, slab: 180, stacks: 140, percpu: 40, shim: 50, descriptors: 25}
	f := cost(before, after, 400, 80, 4)
	if f.available != 200 || f.wrote != 100 || f.named() != 20+20+10+0+10 || f.descriptors != 5 {
		t.Errorf("%+v", f)
	}
	if f.beyond() != 100 {
		t.Errorf("beyond the written pages %d bytes, want what is missing: 100", f.beyond())
	}
	after.available = 1200 // somebody else freed memory
	if f := cost(before, after, 400, 80, 4); f.beyond() != 60 {
		t.Errorf("beyond the written pages %d bytes, want what is known by name: 60", f.beyond())
	}
}

func TestWritten(t *testing.T) {
	pages, tables, err := written(os.Getpid())
	if err != nil || pages < 64<<10 || tables < 4<<10 {
		t.Errorf("%d bytes written, %d of page tables, %v", pages, tables, err)
	}
	if n, err := openFiles(os.Getpid()); err != nil || n < 3 {
		t.Errorf("%d descriptors allowed, %v", n, err)
	}
}

func TestNumberIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	if err := os.WriteFile(path, []byte("1024\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := numberIn(path); n != 1024 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := os.WriteFile(path, []byte("max\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := numberIn(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v does not name the file", err)
	}
}
