package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/runtime"
)

// readyWait bounds the wait for an application to answer for the first time.
const readyWait = time.Minute

// warmer waits until an application answers and then sends it requests: what an application does for the first time
// it then does before the snapshot, and not in every clone.
type warmer struct {
	url   string
	count int
	on    string
}

func newWarmer(r SnapshotRequest, src *runtime.Source) (*warmer, error) {
	w := &warmer{count: r.Warm, on: src.Name}
	if r.Ready == "" {
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "snapshot", On: src.Name,
			Err: errors.New("--warm needs to know where to send its requests"), Hint: "add --ready http://:PORT/PATH"}
	}
	u, err := url.Parse(r.Ready)
	if err != nil || u.Scheme != "http" || u.Port() == "" {
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "snapshot", On: src.Name,
			Err: fmt.Errorf("%q is not an address to ask", r.Ready), Hint: "--ready http://:8080/healthz asks the container itself on port 8080"}
	}
	if u.Hostname() == "" {
		addr := src.Network.Address
		if !addr.IsValid() {
			addr = netip.MustParseAddr("127.0.0.1")
		}
		u.Host = net.JoinHostPort(addr.String(), u.Port())
	}
	w.url = u.String()
	return w, nil
}

func (w *warmer) run(ctx context.Context) error {
	// Every request has a connection of its own: one kept open would be in the snapshot.
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.Now().Add(readyWait)
	for {
		err := w.get(ctx, client)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			return &snapshot.Error{Kind: snapshot.KindFailed, Op: "snapshot", On: w.on,
				Err: fmt.Errorf("the application was not ready within %s: %w", readyWait, err), Hint: "check --ready, and the container's logs"}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	for i := range w.count {
		if err := w.get(ctx, client); err != nil {
			return &snapshot.Error{Kind: snapshot.KindFailed, Op: "snapshot", On: w.on,
				Err: fmt.Errorf("warming request %d of %d: %w", i+1, w.count, err), Hint: "the container's logs may say more"}
		}
	}
	return nil
}

func (w *warmer) get(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", w.url, resp.Status)
	}
	return nil
}
