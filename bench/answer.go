package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

const answerPoll = 50 * time.Microsecond

// answers asks the server at an address for its health until it answers well, and returns when the first byte of that
// answer came. A connection that is refused is tried again at once: the server may not listen yet.
func answers(ctx context.Context, host netip.Addr, limit time.Duration) (first time.Time, err error) {
	deadline := time.Now().Add(limit)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for {
		if first, err = ask(ctx, host, deadline); err == nil {
			return first, nil
		}
		if ctx.Err() != nil {
			return first, fmt.Errorf("%s does not answer: %w", host, err)
		}
		time.Sleep(answerPoll)
	}
}

// ask sends one request over a connection of its own.
func ask(ctx context.Context, host netip.Addr, deadline time.Time) (first time.Time, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(host, port).String())
	if err != nil {
		return first, err
	}
	defer c.Close()
	if err := c.SetDeadline(deadline); err != nil {
		return first, err
	}
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.0\r\nHost: bench\r\n\r\n"); err != nil {
		return first, err
	}
	status := make([]byte, len("HTTP/1.x 200"))
	n, err := c.Read(status[:1])
	first = time.Now()
	if err != nil {
		return first, err
	}
	if _, err := io.ReadFull(c, status[n:]); err != nil {
		return first, err
	}
	if string(status[len(status)-3:]) != "200" {
		return first, errors.New("answer begins with " + string(status))
	}
	_, err = io.Copy(io.Discard, c)
	return first, err
}
