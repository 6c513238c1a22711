package criu

import (
	"testing"
)

// BenchmarkRestore is a restore of a small tree, with hardware breakpoints and without.
func BenchmarkRestore(b *testing.B) {
	v := newVictim(b, "", 1)
	v.dump(b.Context())
	v.end()
	ok(b, v.tool.Warm(b.Context(), b.TempDir()))
	for _, c := range []struct {
		name string
		env  []string
	}{{"plain", nil}, {"no breakpoints", []string{"CRIU_FAULT=130"}}} {
		b.Run(c.name, func(b *testing.B) {
			o := v.restoreOptions()
			o.Env = c.env
			for b.Loop() {
				o.Work = b.TempDir()
				r, err := v.tool.Restore(b.Context(), o)
				if err != nil {
					b.Fatalf("%v\n%s", err, logOf(err))
				}
				b.StopTimer()
				for _, p := range r.Phases {
					b.ReportMetric(p.MS, p.Name+"-ms")
				}
				ok(b, reap(r.Pid))
				b.StartTimer()
			}
		})
	}
}
