package snapshot

import "time"

// TemplateState says for how long a template stays.
type TemplateState string

// The states of a template.
const (
	TemplatePinned TemplateState = "pinned" // until it is removed; one that dies is built again
	TemplateIdle   TemplateState = "idle"   // as long as the shim of its clones: a while longer than they
)

// Template is the resident process of a snapshot, which the template engine forks into clones.
type Template struct {
	Snapshot string        `json:"snapshot"` // id
	State    TemplateState `json:"state"`
	Pid      int           `json:"pid"` // 0 while one that died is built again
	Built    time.Time     `json:"built"`
	BuildMS  float64       `json:"build_ms"`
	Clones   int64         `json:"clones"` // made of it, and of those before it that died

	// Memory of the process: all that it maps, its share of it where clones map the same, and how much of its anonymous
	// memory lies in huge pages.
	ResidentBytes int64 `json:"resident_bytes"`
	PSSBytes      int64 `json:"pss_bytes"`
	HugeBytes     int64 `json:"huge_bytes"`
}
