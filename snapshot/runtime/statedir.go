package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// findDir returns the directory below one of roots whose name is ref or, where there is none, the only one whose name
// begins with ref. A ref that is an absolute path names the directory itself.
func findDir(runtime string, roots []string, ref string) (string, error) {
	on := runtime + ":" + ref
	if filepath.IsAbs(ref) {
		if fi, err := os.Stat(ref); err != nil || !fi.IsDir() {
			return "", failure(snapshot.KindNotFound, on, errors.New("no such directory"),
				"an absolute path must be the container's own directory below the runtime's state")
		}
		return filepath.Clean(ref), nil
	}
	var found []string
	for _, root := range roots {
		entries, err := os.ReadDir(root)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", failure(snapshot.KindFailed, on, err, "")
		}
		for _, e := range entries {
			if e.IsDir() && e.Name() == ref {
				return filepath.Join(root, ref), nil
			}
			if e.IsDir() && ref != "" && strings.HasPrefix(e.Name(), ref) {
				found = append(found, filepath.Join(root, e.Name()))
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", failure(snapshot.KindNotFound, on, errors.New("no such container"),
			fmt.Sprintf("looked in %s; %s:/PATH names a state directory elsewhere", strings.Join(roots, ", "), runtime))
	}
	return "", failure(snapshot.KindInvalid, on, fmt.Errorf("%d containers match", len(found)), "give more of the id")
}

// defaultRoots are where a low-level runtime keeps its state: for root, and for users without privilege.
func defaultRoots(name string) []string {
	users, _ := filepath.Glob("/run/user/*/" + name)
	return slices.Concat([]string{"/run/" + name}, users)
}

// readJSON decodes a state file. A file that is missing means that the container is not there.
func readJSON(on, path string, into any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return failure(snapshot.KindNotFound, on, fmt.Errorf("%s is missing", path), "")
	}
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return failure(snapshot.KindFailed, on, fmt.Errorf("read state: %w", err), "")
	}
	return nil
}

// checkStarted fails for a container that was created and whose program has not been started: its init still waits in
// the runtime's code for the fifo in its state directory to be opened.
func checkStarted(on, stateDir string) error {
	if _, err := os.Stat(filepath.Join(stateDir, "exec.fifo")); err == nil {
		return failure(snapshot.KindState, on, errors.New("the container is created and not started"), "start it first")
	}
	return nil
}
