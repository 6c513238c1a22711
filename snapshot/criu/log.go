package criu

import (
	"io"
	"os"
	"slices"
	"strings"
)

const (
	logMax   = 1 << 20 // what is read of a log, from its end
	tailMax  = 40      // lines that go into an error
	errorTag = "Error ("
)

// readLog returns the end of a log of criu, or "".
func readLog(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > logMax {
		_, _ = f.Seek(-logMax, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, logMax))
	return string(b)
}

// errorLines returns what criu's log says at level error, without time stamp and source position.
func errorLines(log string) []string {
	var out []string
	for line := range strings.Lines(log) {
		_, said, ok := strings.Cut(line, errorTag)
		if !ok {
			continue
		}
		if _, text, ok := strings.Cut(said, "): "); ok && !harmless(text) {
			out = append(out, strings.TrimSpace(text))
		}
	}
	return out
}

// harmless says whether CRIU goes on after an error and succeeds.
func harmless(text string) bool {
	return slices.ContainsFunc([]string{
		"rlimit: Can't setup RLIMIT_NOFILE for self", // it makes do with the limit that it has
	}, func(s string) bool { return strings.Contains(text, s) })
}

// firstError returns the first error in a log, or "".
func firstError(log string) string {
	if lines := errorLines(log); len(lines) > 0 {
		return lines[0]
	}
	return ""
}

// tail returns the last lines of a log.
func tail(log string) string {
	lines := slices.DeleteFunc(strings.SplitAfter(log, "\n"), harmless)
	return strings.Join(lines[max(0, len(lines)-tailMax-1):], "")
}
