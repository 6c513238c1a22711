package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "-1": -1, "-2k": -2048, "0.5": 0, "1": 1, "4096": 4096, "1k": 1024, "512m": 512 << 20, "512M": 512 << 20, "1.5g": 3 << 29, "2GiB": 2 << 30, "3kb": 3072, "1t": 1 << 40, "7b": 7,
	} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "m", "--1", "1e3", "0x10", "inf", "nan", "1_000", "9999999t", "1mm", "1 m", "+1", "b", "ib"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", in, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"512m", "1.5g", "x", "1e400", "ib"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize(s); err == nil && (n == math.MinInt64 || n == math.MaxInt64) {
			t.Errorf("parseSize(%q) = %d", s, n)
		}
	})
}

func TestTexts(t *testing.T) {
	now := clock()
	for in, want := range map[time.Duration]string{
		-time.Hour: "0s", 59 * time.Second: "59s", time.Minute: "1m", 90 * time.Minute: "1h", 47 * time.Hour: "47h", 48 * time.Hour: "2d",
	} {
		if got := ageText(now, now.Add(-in)); got != want {
			t.Errorf("ageText(%s) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 19: "1.5 MiB", 5 << 40: "5.0 TiB", 5 << 52: "20480.0 TiB"} {
		if got := bytesText(in); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", in, got, want)
		}
	}
	if got := plain("a\tb\x1b[1m\u009bc\n"); got != "a?b?[1m?c?" {
		t.Errorf("plain lets control characters through: %q", got)
	}
}

func TestWrap(t *testing.T) {
	text := strings.Repeat("word ", 40)
	for line := range strings.SplitSeq(wrap(text, 20), "\n") {
		if len(line) > 20 || line == "" {
			t.Errorf("line %q", line)
		}
	}
	if got := strings.Fields(wrap(text, 20)); len(got) != 40 {
		t.Errorf("%d words of 40 are left", len(got))
	}
}
