package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// knownConfigs are the configs of snapshots, by file. Clones of one snapshot share what was read for the first: to send
// and decode it with every request would take as long as the fork.
type knownConfigs struct {
	mu    sync.Mutex
	known map[string]snapshot.Config
}

// read puts the config of the snapshot into a request. It must not be changed.
func (c *knownConfigs) read(r *shim.CloneRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	config, ok := c.known[r.ConfigFile]
	if !ok {
		b, err := os.ReadFile(r.ConfigFile)
		if err == nil {
			err = json.Unmarshal(b, &config)
		}
		if err != nil {
			return fmt.Errorf("config of the snapshot: %w", err)
		}
		if c.known == nil {
			c.known = make(map[string]snapshot.Config)
		}
		c.known[r.ConfigFile] = config
	}
	r.Config = config
	return nil
}
