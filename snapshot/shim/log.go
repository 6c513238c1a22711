package shim

import (
	"path/filepath"
	"time"
)

// LogEntry is one line of a container's log, in the form of Docker's json-file driver.
type LogEntry struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"` // "stdout" or "stderr"
	Time   time.Time `json:"time"`
}

// LogFile is a container's log: a [LogEntry] a line. When it would become longer than its record allows, it becomes the
// older log, in the place of the one before, and a new one is begun.
func LogFile(root, id string) string { return filepath.Join(ContainerDir(root, id), "log") }

// OlderLogFile is what a container wrote before what is in its log. There may be none.
func OlderLogFile(root, id string) string { return LogFile(root, id) + olderSuffix }

const olderSuffix = ".1"
