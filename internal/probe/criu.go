package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// CRIU returns the probe for CRIU. check says whether there is one that is new enough and works; an error of the kind
// [NotSupported] is passed on as it is.
func CRIU(check func(context.Context) error) Probe {
	const name = "criu"
	return Probe{Name: name, Need: "capturing and restoring processes", Required: true, Run: func(ctx context.Context) error {
		err := check(ctx)
		if err == nil || errors.Is(err, ErrNotSupported) {
			return err
		}
		return &NotSupported{Name: name, Why: err.Error(), Remedy: "install CRIU 4.2 or newer, and name it with --criu or SNAPD_CTR_CRIU"}
	}}
}

// The oldest CRIU that is right: older ones copy memory that must not be shared by clones (VM_DROPPABLE), and forget
// which memory is to be wiped on fork.
const (
	oldestMajor = 4
	oldestMinor = 2
)

// CheckCRIU returns a check for [CRIU] that asks the binary at path for its version, and runs its self-test.
func CheckCRIU(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		out, err := output(ctx, path, "--version")
		if err != nil {
			return err
		}
		if err := newEnough(out); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		_, err = output(ctx, path, "check")
		return err
	}
}

// newEnough looks at what criu --version printed. This is the one thing that is read off a version: what older ones do
// wrong shows only in the memory of clones.
func newEnough(text string) error {
	for line := range strings.Lines(text) {
		version, ok := strings.CutPrefix(line, "Version:")
		if !ok {
			continue
		}
		version = strings.TrimSpace(version)
		var major, minor int
		if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
			if _, err := fmt.Sscanf(version, "%d", &major); err != nil {
				return fmt.Errorf("version %q cannot be read", version)
			}
		}
		if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
			return fmt.Errorf("version %s is older than %d.%d", version, oldestMajor, oldestMinor)
		}
		return nil
	}
	return errors.New("it does not print a version")
}

// output runs a program and returns what it printed; the error holds the last line of it.
func output(ctx context.Context, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return "", fmt.Errorf("%s %s: %w: %s", path, strings.Join(args, " "), err, last)
	}
	return "", fmt.Errorf("%s %s: %w", path, strings.Join(args, " "), err)
}
