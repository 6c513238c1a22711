package proc

import (
	"os"
	"testing"
)

func TestRollup(t *testing.T) {
	const text = "00400000-7fff0000 ---p 00000000 00:00 0    [rollup]\nRss:   181248 kB\nPss:    90624 kB\nPss_Anon:   1 kB\nAnonHugePages:    176128 kB\n"
	got, err := parseRollup([]byte(text))
	if want := (Rollup{RSS: 181248 << 10, PSS: 90624 << 10, Huge: 176128 << 10}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := parseRollup([]byte("Rss: many kB\n")); err == nil {
		t.Error("a number that is none is taken")
	}
	own, err := ReadRollup(os.Getpid())
	if err != nil || own.RSS <= 0 || own.PSS <= 0 || own.PSS > own.RSS {
		t.Errorf("our own: %+v, %v", own, err)
	}
}
