package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/stats"
	"google.golang.org/protobuf/proto"
)

// Stats are CRIU's own numbers about a dump.
type Stats struct {
	FreezingMS   float64 // to stop every task
	FrozenMS     float64 // from the first task stopped to the last one let go
	MemDumpMS    float64 // to take pages out of the tasks
	MemWriteMS   float64 // to write them to images
	PagesScanned int64
	PagesWritten int64
}

func readStats(work string) (Stats, error) {
	name := filepath.Join(work, "stats-dump")
	b, err := os.ReadFile(name)
	if err != nil {
		return Stats{}, err
	}
	// Two magic numbers and the length of the one record.
	if len(b) < 12 || uint64(binary.LittleEndian.Uint32(b[8:])) > uint64(len(b)-12) {
		return Stats{}, fmt.Errorf("%s: %w", name, errors.New("truncated"))
	}
	b = b[12 : 12+binary.LittleEndian.Uint32(b[8:])]
	var e stats.StatsEntry
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(b, &e); err != nil {
		return Stats{}, fmt.Errorf("%s: %w", name, err)
	}
	d := e.GetDump()
	ms := func(us uint32) float64 { return float64(us) / 1000 }
	return Stats{
		FreezingMS:   ms(d.GetFreezingTime()),
		FrozenMS:     ms(d.GetFrozenTime()),
		MemDumpMS:    ms(d.GetMemdumpTime()),
		MemWriteMS:   ms(d.GetMemwriteTime()),
		PagesScanned: int64(d.GetPagesScanned()),
		PagesWritten: int64(d.GetPagesWritten()),
	}, nil
}
