package sys

import (
	"bufio"
	"testing"
	"time"
)

func TestOpenTerminal(t *testing.T) {
	master, slave, err := OpenTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if _, err := slave.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(master).ReadString('\n'); err != nil || line != "hello\r\n" {
		t.Errorf("read %q, %v", line, err)
	}
	if err := master.SetReadDeadline(time.Now()); err != nil {
		t.Errorf("a read cannot be bounded: %v", err)
	}
	if err := slave.Close(); err != nil {
		t.Error(err)
	}
}
