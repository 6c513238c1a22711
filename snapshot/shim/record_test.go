package shim

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestRecordRoundTrip(t *testing.T) {
	root := t.TempDir()
	want := snapshot.Container{
		ID: "b", Name: "web", Status: snapshot.StatusExited, Created: time.Now().UTC(), ExitStatus: 137, ExitKnown: true,
		Network: snapshot.Network{Mode: "bridge", Address: netip.MustParseAddr("10.1.2.3")}, Args: []string{"sleep", "1"},
	}
	if err := WriteContainer(root, want); err == nil {
		t.Error("wrote a record without a directory")
	}
	for _, id := range []string{"b", "a", "without-record"} {
		if err := os.MkdirAll(ContainerDir(root, id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []snapshot.Container{want, {ID: "a"}, want} {
		if err := WriteContainer(root, c); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadContainer(root, "b")
	if err != nil || !sameRecord(got, want) {
		t.Errorf("read %+v, %v; want %+v", got, err, want)
	}
	all, err := ListContainers(root)
	if err != nil || len(all) != 2 || all[0].ID != "a" || all[1].ID != "b" {
		t.Errorf("list: %+v, %v", all, err)
	}
	entries, err := os.ReadDir(ContainerDir(root, "b"))
	if err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v; want the record alone", entries, err)
	}
	if info, err := os.Stat(filepath.Join(ContainerDir(root, "b"), recordFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("record: %v, %v; want mode 0600", info, err)
	}
}

func TestRecordErrors(t *testing.T) {
	root := t.TempDir()
	if list, err := ListContainers(root); err != nil || list != nil {
		t.Errorf("list of nothing: %v, %v", list, err)
	}
	if _, err := ReadContainer(root, "x"); snapshot.KindOf(err) != snapshot.KindNotFound {
		t.Errorf("missing record: %v", err)
	}
	dir := ContainerDir(root, "x")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, recordFile), []byte(`{"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadContainer(root, "x"); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("broken record: %v", err)
	}
	if _, err := ListContainers(root); err == nil {
		t.Error("list hides a broken record")
	}
}

// TestDamagedContainers has a record cut short and one of another container. They are told apart from what is no
// container at all, and hide no others.
func TestDamagedContainers(t *testing.T) {
	root := t.TempDir()
	for id, text := range map[string]string{"short": `{"id":`, "other": `{"id":"x"}`, "sound": `{"id":"sound"}`} {
		if err := os.MkdirAll(ContainerDir(root, id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(ContainerDir(root, id), recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(ContainerDir(root, "a-file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged, err := DamagedContainers(root)
	if err != nil || len(damaged) != 2 || damaged["short"] == nil || damaged["other"] == nil {
		t.Errorf("damaged: %v, %v", damaged, err)
	}
	all, err := ListContainers(root)
	if len(all) != 1 || all[0].ID != "sound" || snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("list: %+v, %v", all, err)
	}
}
