package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/shim"
)

// blacklist has the shim in force with these session cookies listed.
func (r *rig) blacklist(generation uint64, cookies ...string) {
	b := lists.NewBuilder(nil)
	b.Set(lists.DefaultSettings())
	for _, value := range cookies {
		id := lists.ID{Kind: lists.KindCookie, Name: "session", Value: value}
		b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}, Created: time.Now()})
	}
	r.judge.shim.Use(b.Snapshot(generation), nil, true)
}

// TestListedWhileConnected: of clients that are connected in every way the listed one is cut off within a second and
// gets no further request through; the others notice nothing.
func TestListedWhileConnected(t *testing.T) {
	t.Parallel()
	ws := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		if !strings.Contains(head, "Upgrade: websocket") {
			return answerOK(c, head, in)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, in)
		return false
	})
	streams := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, "begin")
		_ = http.NewResponseController(w).Flush()
		<-q.Context().Done()
	})
	api, other := rootAPI(ws.address), rootAPI(streams)
	api.Cookie, other.Cookie = "session", "session"
	other.ID, other.URL = "stream", "/stream"
	r := newRig(t, Options{}, api, other)
	r.blacklist(1)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.judge.shim.Run(ctx) })
	defer running.Wait()
	defer cancel()

	type open struct {
		what   string
		bad    bool
		ended  chan time.Time
		finish func()
	}
	var all []*open
	for _, bad := range []bool{true, false} {
		cookie := "session=good"
		if bad {
			cookie = "session=bad"
		}
		o := &open{what: "WebSocket", bad: bad, ended: make(chan time.Time, 1)}
		c := r.dial()
		c.send("GET /ws HTTP/1.1\r\nHost: a\r\nCookie: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", cookie)
		if a, err := http.ReadResponse(c.in, nil); err != nil || a.StatusCode != 101 {
			t.Fatalf("%v, %v", a, err)
		}
		c.echo("ping", "ping")
		running.Go(func() { _, _ = c.in.ReadByte(); o.ended <- time.Now() })
		o.finish = func() { c.Close() }
		all = append(all, o)
		for _, h2 := range []bool{false, true} {
			o := &open{what: fmt.Sprintf("stream, HTTP/2 %t", h2), bad: bad, ended: make(chan time.Time, 1)}
			q, _ := http.NewRequestWithContext(ctx, "GET", "http://"+r.plain+"/stream", nil)
			q.Header.Set("Cookie", cookie)
			a, err := web(t, h2).Do(q)
			if err != nil {
				t.Fatal(err)
			}
			running.Go(func() { _, _ = io.Copy(io.Discard, a.Body); o.ended <- time.Now() })
			o.finish = func() { a.Body.Close() }
			all = append(all, o)
		}
	}
	kept := r.dial()
	kept.send("GET /1 HTTP/1.1\r\nHost: a\r\nCookie: session=bad\r\n\r\n")
	kept.expect("200 OK", "GET /1 0")

	listed := time.Now()
	r.blacklist(2, "bad")
	kept.send("GET /2 HTTP/1.1\r\nHost: a\r\nCookie: session=bad\r\n\r\n")
	kept.expect("403 Unauthorized", "Error: Unauthorized")
	for _, o := range all {
		if !o.bad {
			continue
		}
		select {
		case at := <-o.ended:
			took := at.Sub(listed)
			t.Logf("%s of the listed client ended %v after the listing", o.what, took.Round(time.Millisecond))
			if took > 5*time.Second { // a second, and what a busy machine adds to it
				t.Errorf("%s of the listed client ended only after %v", o.what, took)
			}
		case <-time.After(patience):
			t.Errorf("%s of the listed client goes on", o.what)
		}
	}
	for _, o := range all {
		select {
		case <-o.ended:
			if !o.bad {
				t.Errorf("%s of the other client has ended", o.what)
			}
		default:
		}
		o.finish()
	}
	if s := r.p.Stats(); s.Ended != 3 || s.Blocked != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestHeaderIsNotReusedWhileHeld: held streams are judged by the shim while their requests end and others begin; the
// race detector watches.
func TestHeaderIsNotReusedWhileHeld(t *testing.T) {
	const size = 64 << 10
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		_, err := io.CopyN(c, zeros{}, size)
		return err == nil
	})
	api := rootAPI(b.address)
	api.Cookie = "session"
	r := newRig(t, Options{}, api)
	r.judge.shim = shim.New(shim.Options{})
	r.use(api)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.judge.shim.Run(ctx) })
	running.Go(func() {
		for generation := uint64(1); ctx.Err() == nil; generation++ {
			r.blacklist(generation, "nobody")
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			c := r.dial()
			for n := range 50 {
				c.send("GET / HTTP/1.1\r\nHost: a\r\nCookie: session=%d-%d\r\nX-A: b\r\nX-A: c\r\n\r\n", i, n)
				if a, err := http.ReadResponse(c.in, nil); err != nil {
					t.Error(err)
					return
				} else if got, err := io.Copy(io.Discard, a.Body); err != nil || got != size {
					t.Errorf("%d bytes, %v", got, err)
					return
				}
			}
		})
	}
	clients.Wait()
	cancel()
	running.Wait()
}
