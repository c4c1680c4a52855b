package serving

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEnd: what is being answered when ctx ends is answered, then HTTP returns and nobody is taken any more.
func TestEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		for c, err := net.Dial("tcp", l.Addr().String()); err == nil; c, err = net.Dial("tcp", l.Addr().String()) {
			c.Close() // it still takes calls
		}
		io.WriteString(w, "whole")
	})}
	ended := make(chan error, 1)
	go func() { ended <- HTTP(ctx, s, l, time.Minute) }()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "whole" {
		t.Errorf("answered %q, %v", text, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestGrace: a call that does not end is cut once its time is over.
func TestGrace(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})}
	ended := make(chan error, 1)
	go func() { ended <- HTTP(ctx, s, l, time.Millisecond) }()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if resp, err := client.Get("http://" + l.Addr().String()); err == nil {
		resp.Body.Close()
		t.Error("a call that was cut was answered")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestBroken: a listener that fails is an error.
func TestBroken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := HTTP(t.Context(), new(http.Server), l, time.Second); err == nil {
		t.Error("no error")
	}
}
