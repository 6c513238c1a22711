// Command goserver is the Go program of the tests: a static HTTP server with a counter and a heap that must survive.
//
// GET /healthz, and GET /value: {"counter": requests so far, "value": computed from the heap}. PORT and MB are taken
// from the environment.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "goserver:", err)
		os.Exit(1)
	}
}

func run() error {
	port, err := setting("PORT", 8080)
	if err != nil {
		return err
	}
	megabytes, err := setting("MB", 32)
	if err != nil {
		return err
	}
	words, index := fill(megabytes)

	var counter, ticks atomic.Int64
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			ticks.Add(1)
		}
	}()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"status":"ok"}`) })
	mux.HandleFunc("GET /value", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "{\"counter\":%d,\"value\":%d}\n", counter.Add(1), value(words, index))
	})
	mux.HandleFunc("GET /ticks", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "{\"ticks\":%d}\n", ticks.Load())
	})
	listener, err := net.Listen("tcp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	server.SetKeepAlivesEnabled(false)
	fmt.Printf("ready: %d MB, port %d\n", megabytes, port)
	return server.Serve(listener)
}

// fill returns megabytes of words that are the same in every run, and an index of some of them.
func fill(megabytes int) ([]uint32, map[string]uint32) {
	words := make([]uint32, megabytes<<18)
	x := uint32(2463534242)
	for i := range words {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		words[i] = x
	}
	index := make(map[string]uint32)
	for i := range min(20_000, len(words)) {
		index[fmt.Sprintf("key-%d", i)] = words[i]
	}
	return words, index
}

func value(words []uint32, index map[string]uint32) uint32 {
	v := index["key-7"]
	for i := 0; i < len(words); i += max(1, len(words)/64) {
		v ^= words[i]
	}
	return v
}

func setting(name string, otherwise int) (int, error) {
	s, ok := os.LookupEnv(name)
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%s: %q is not a positive number", name, s)
	}
	return n, nil
}
