package pager

import (
	"bufio"
	"fmt"
	"os/exec"
	"testing"
)

// bench runs testdata/bench.c against the pager and returns the number that it prints.
func bench(b *testing.B, p *Pager, bin, what string, n int) float64 {
	b.Helper()
	work := b.TempDir()
	s, err := p.Serve(work)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	cmd := exec.Command(bin, socketName, what, fmt.Sprint(n))
	cmd.Dir = work
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	var v float64
	if _, err := fmt.Sscan(line, &v); err != nil {
		b.Fatal(err)
	}
	if what == "fill" {
		<-s.Filled()
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := s.Err(); err != nil {
		b.Fatal(err)
	}
	return v
}

const benchPages = 64 << 8 // 64 MiB

// BenchmarkFill fills 64 MiB that nobody touches.
func BenchmarkFill(b *testing.B) {
	bin, im := build(b, "bench"), pages(b, benchPages)
	var stored uint64
	for _, s := range im.tasks[1] {
		stored += s.size()
	}
	b.SetBytes(int64(stored))
	for b.Loop() {
		bench(b, New(im, nil), bin, "fill", benchPages)
	}
}

// BenchmarkFault is the time to touch a page that is missing, each in a window of its own. The background fill is held
// back.
func BenchmarkFault(b *testing.B) {
	bin, im := build(b, "bench"), pages(b, benchPages)
	var sum float64
	for b.Loop() {
		p := New(im, nil)
		p.Busy()
		sum += bench(b, p, bin, "fault", benchPages)
	}
	b.ReportMetric(sum/float64(b.N), "ns/fault")
}
