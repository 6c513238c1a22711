package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestUndo has each step of a start fail in turn, with real effects. It is undone as the machine's transcripts say, and
// nothing is left.
func TestUndo(t *testing.T) {
	transcripts, err := os.ReadFile("../../snapshot/testdata/start.txt")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for _, fail := range snapshot.StartMachine().Effects() {
		t.Run(string(fail), func(t *testing.T) {
			h, p, id, request := cloning(t, &fakeEngine{})
			request.Record.ID = id
			c, err := p.enter(request.Record)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.begin(); err != nil {
				t.Fatal(err)
			}
			var transcript strings.Builder
			m := snapshot.StartMachine()
			l := &launch{container: c, lower: []string{h.rootfs}}
			actions := l.actions()
			for e, do := range actions {
				actions[e] = func(ctx context.Context) error {
					verb, note := "do  ", ""
					if m.Undoing() {
						verb = "undo"
					}
					err := do(ctx)
					if e == fail {
						err, note = errors.Join(err, broken), "  ! fails"
					}
					fmt.Fprintf(&transcript, "  %s %s%s\n", verb, e, note)
					return err
				}
			}
			run := snapshot.NewExecution(m, actions)
			c.undo = run.Undo
			if err := run.Do(t.Context()); err == nil || err.Error() != string(fail)+": broken" {
				t.Errorf("error %v", err)
			}
			if want := fmt.Sprintf("\n%s fails\n%s  = undone\n", fail, &transcript); !strings.Contains(string(transcripts), want) {
				t.Errorf("not as in the transcripts:%s", want)
			}
			if err := c.abandon(); err != nil {
				t.Error(err)
			}
			h.checkGone(id)
		})
	}
}
