package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

// raw2 speaks HTTP/2 frame by frame.
type raw2 struct {
	*http2.Framer
	c net.Conn
	t *testing.T
}

func (r *rig) dial2() *raw2 {
	r.t.Helper()
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = f.WriteSettings()
	return &raw2{f, c, r.t}
}

// open sends a header block as it is; fields are name and value in turns.
func (c *raw2) open(stream uint32, end bool, fields ...string) error {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: true})
}

// outcome is the status of a stream, or how it was refused.
func (c *raw2) outcome(stream uint32) string {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "reset"
			}
		case *http2.GoAwayFrame:
			return "closed"
		}
	}
}

// TestNothingIsSmuggledOverHTTP2: pseudo-header games, and what would be another request once written as HTTP/1.1.
func TestNothingIsSmuggledOverHTTP2(t *testing.T) {
	b := newRecorder(t, nil)
	r := newRig(t, Options{}, rootAPI(b.address))
	get := []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"}
	with := func(fields ...string) []string { return append(append([]string(nil), get...), fields...) }
	tests := []struct {
		name   string
		fields []string
		data   string
		want   string // a status; "": refused in any way
	}{
		{"honest", get, "", "200"},
		{"host that agrees", with("host", "a"), "", "200"},
		{"host that differs", with("host", "b"), "", ""},
		{"two hosts", with("host", "a", "host", "b"), "", ""},
		{"transfer-encoding", with("transfer-encoding", "chunked"), "0\r\n\r\n" + inner, ""},
		{"connection", with("connection", "close"), "", ""},
		{"upgrade", with("upgrade", "h2c"), "", ""},
		{"CRLF in a value", with("x", "y\r\n\r\n"+inner), "", ""},
		{"LF in a value", with("x", "y\ntransfer-encoding: chunked"), "", ""},
		{"NUL in a value", with("x", "y\x00"), "", ""},
		{"CRLF in a name", with("x: y\r\nz", "1"), "", ""},
		{"colon in a name", with("x:y", "1"), "", ""},
		{"space in a name", with("content-length ", "1"), "", ""},
		{"upper case name", with("X-Up", "1"), "", ""},
		{"empty name", with("", "1"), "", ""},
		{"underscore length", with("content_length", "38"), "", ""},
		{"CRLF in the path", []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/ HTTP/1.1\r\nHost: a\r\n\r\n" + inner}, "", ""},
		{"space in the path", []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/smuggled HTTP/1.1"}, "", ""},
		{"dots in the path", []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/a/../smuggled"}, "", ""},
		{"path without a slash", []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "smuggled"}, "", ""},
		{"path that is a URL", []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "http://b/smuggled"}, "", ""},
		{"empty path", []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", ""}, "", ""},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "a"}, "", ""},
		{"two paths", with(":path", "/smuggled"), "", ""},
		{"method with a request", []string{":method", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET", ":scheme", "http", ":authority", "a", ":path", "/"}, "", ""},
		{"method with a space", []string{":method", "GET /smuggled", ":scheme", "http", ":authority", "a", ":path", "/"}, "", ""},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "a"}, "", ""},
		{"authority with a path", []string{":method", "GET", ":scheme", "http", ":authority", "a/b", ":path", "/"}, "", ""},
		{"authority with a user", []string{":method", "GET", ":scheme", "http", ":authority", "x@a", ":path", "/"}, "", ""},
		{"no authority", []string{":method", "GET", ":scheme", "http", ":path", "/"}, "", ""},
		{"pseudo-header last", []string{":method", "GET", ":scheme", "http", "x", "y", ":authority", "a", ":path", "/"}, "", ""},
		{"unknown pseudo-header", []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", ":x", "y"}, "", ""},
		{"length that is too short", []string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/", "content-length", "1"}, inner, ""},
		{"length that is too long", []string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/", "content-length", "100"}, inner, ""},
		{"two lengths", []string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/", "content-length", "35", "content-length", "0"}, inner, ""},
		{"request as a body", []string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/"}, inner, "200"},
		{"many headers", with(strings.Split(strings.Repeat("x,y,", 100)+"x,y", ",")...), "", ""},
		{"header bomb", with("x", strings.Repeat("y", 1<<14), "y", strings.Repeat("y", 1<<14), "z", strings.Repeat("y", 1<<14)), "", ""},
	}
	for _, test := range tests {
		_, before, _ := b.got()
		c := r.dial2()
		err := c.open(1, test.data == "", test.fields...)
		if test.data != "" && err == nil {
			_ = c.WriteData(1, true, []byte(test.data))
		}
		got := "refused by the client's own library"
		if err == nil {
			got = c.outcome(1)
		}
		if test.want != "" && got != test.want || test.want == "" && strings.HasPrefix(got, "2") {
			t.Errorf("%s: %s, want %q", test.name, got, test.want)
		}
		c.c.Close()
		_, heads, _ := b.got()
		for _, head := range heads[len(before):] {
			if !plainHead.MatchString(head) || !framedOnce(head) || strings.Contains(head, "smuggled") {
				t.Errorf("%s: backend got %q", test.name, head)
			}
		}
	}
	if _, heads, _ := b.got(); len(heads) > len(r.judge.all()) {
		t.Errorf("backend got %d requests, %d were judged", len(heads), len(r.judge.all()))
	}
}

func TestRapidResetIsEnded(t *testing.T) {
	release := make(chan struct{})
	b := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		select {
		case <-release:
		case <-q.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	r := newRig(t, Options{}, rootAPI(b))
	c := r.dial2()
	sent := 0
	for ; sent < 100_000; sent++ {
		stream := uint32(2*sent + 1)
		if c.open(stream, true, ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/") != nil || c.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
			break
		}
	}
	r.eventually("the connection is gone, with all its requests", func(s Stats) bool { return s.Connections == 0 && s.Active == 0 })
	s := r.p.Stats()
	if s.Passed > 20_000 || s.Resets > s.Passed {
		t.Errorf("counted %+v", s)
	}
	t.Logf("ended after at most %d streams: %d judged, %d counted as reset, connections closed for it %d", sent, s.Passed, s.Resets, s.RapidResets)
}

// TestHeaderFloodsAreEnded: a header that goes on in frame after frame, and one that is small on the wire and large once it
// is unpacked, reach nobody and cost little.
func TestHeaderFloodsAreEnded(t *testing.T) {
	b := newRecorder(t, nil)
	r := newRig(t, Options{}, rootAPI(b.address))
	block := func(fields ...hpack.HeaderField) []byte {
		var b bytes.Buffer
		e := hpack.NewEncoder(&b)
		for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}}, fields...) {
			_ = e.WriteField(f)
		}
		return b.Bytes()
	}
	t.Run("continuation", func(t *testing.T) {
		c := r.dial2()
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(), EndStream: true})
		var some bytes.Buffer
		_ = hpack.NewEncoder(&some).WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 8<<10), Sensitive: true})
		sent := 0
		for sent < 256<<20 && c.WriteContinuation(1, false, some.Bytes()) == nil {
			sent += some.Len()
		}
		t.Logf("ended after at most %d MB, what the sockets hold included", sent>>20)
		if sent >= 256<<20 {
			t.Error("it is read without end")
		}
	})
	t.Run("unpacked", func(t *testing.T) {
		c := r.dial2()
		bomb := make([]hpack.HeaderField, 10_000) // in the table from the second on: a byte each
		for i := range bomb {
			bomb[i] = hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 3<<10)}
		}
		all := block(bomb...)
		if len(all) > 16<<10 {
			t.Fatalf("%d bytes: no bomb", len(all))
		}
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: all, EndStream: true, EndHeaders: true})
		if got := c.outcome(1); got != "431" && got != "closed" && got != "reset" {
			t.Errorf("30 MB of header: %s", got)
		}
	})
	r.eventually("the connections are gone or idle", func(s Stats) bool { return s.Active == 0 })
	if _, got, _ := b.got(); len(got) != 0 {
		t.Errorf("reached the backend: %q", got)
	}
}

// TestGRPC: calls and streams, with their trailers, through to a real server, and ended when the client is listed.
func TestGRPC(t *testing.T) {
	l := listen(t)
	server := grpc.NewServer()
	state := health.NewServer()
	healthpb.RegisterHealthServer(server, state)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	r := newRig(t, Options{}, &apis.API{ID: "grpc", Hostname: "*", URL: "/grpc.health.v1.Health", Servers: servers(l.Addr().String())})
	r.judge.decide = func(q *http.Request) (shim.Decision, bool) { return blocked, q.Header.Get("Authorization") == "bad" }
	conn, err := grpc.NewClient(r.plain, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := healthpb.NewHealthClient(conn)
	if got, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: "none"}); status.Code(err) != codes.NotFound {
		t.Fatalf("an error in the trailers came as %v", err)
	}
	watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		if got, err := watch.Recv(); err != nil || got.Status != want {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
		state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	}
	if n := r.judge.holding(); n != 1 {
		t.Fatalf("%d streams are held, want 1", n)
	}
	began := time.Now()
	r.judge.list()
	if got, err := watch.Recv(); err == nil {
		t.Errorf("the stream of a listed client goes on: %v", got)
	}
	t.Logf("ended %v after the listing", time.Since(began))
	r.eventually("nothing is left of it", func(s Stats) bool { return s.Active == 0 && s.Ended == 1 })
}

// TestStreamEndsWhenListed: of two streams of one connection the one that is listed ends, the other goes on.
func TestStreamEndsWhenListed(t *testing.T) {
	more := make(chan struct{})
	b := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, "begin ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-more:
			_, _ = io.WriteString(w, "end")
		case <-q.Context().Done():
		}
	})
	r := newRig(t, Options{}, rootAPI(b))
	c := web(t, true)
	var answers []*http.Response
	for range 2 {
		a, err := c.Get("http://" + r.plain + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		answers = append(answers, a)
	}
	r.judge.mu.Lock()
	end := r.judge.held[1]
	r.judge.mu.Unlock()
	end()
	if got, err := io.ReadAll(answers[0].Body); err == nil || !strings.HasPrefix("begin ", string(got)) {
		t.Errorf("the listed one: %q, %v", got, err)
	}
	close(more)
	if got, err := io.ReadAll(answers[1].Body); err != nil || string(got) != "begin end" {
		t.Errorf("the other one: %q, %v", got, err)
	}
}

// TestTrailersBothWays: but for those that are for who the client is.
func TestTrailersBothWays(t *testing.T) {
	b := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", fmt.Sprint(q.Trailer.Get("X-Up"), q.Trailer.Get("Cookie"), q.Trailer.Get("X-Key")))
	})
	api := rootAPI(b)
	api.APIKeyHeader = "x_key"
	r := newRig(t, Options{}, api)
	for _, h2 := range []bool{false, true} {
		q, _ := http.NewRequest("POST", "http://"+r.plain+"/", io.MultiReader(strings.NewReader("x")))
		q.Trailer = http.Header{"X-Up": {"up"}, "Cookie": {"s=1"}, "X-Key": {"k"}}
		a, err := web(t, h2).Do(q)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err != nil || string(got) != "body" || a.Trailer.Get("X-Sum") != "up" {
			t.Errorf("HTTP/2 %t: %q, %v, trailers %v", h2, got, err, a.Trailer)
		}
	}
}

func TestClientThatLeaves(t *testing.T) {
	t.Parallel()
	gone := make(chan error, 1)
	b := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		select {
		case <-q.Context().Done():
			gone <- nil
		case <-time.After(patience):
			gone <- errors.New("the backend works on for a client that has left")
		}
	})
	r := newRig(t, Options{}, rootAPI(b))
	for _, h2 := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		q, _ := http.NewRequestWithContext(ctx, "GET", "http://"+r.plain+"/", nil)
		if a, err := web(t, h2).Do(q); err == nil {
			a.Body.Close()
			t.Error("an answer came")
		}
		cancel()
		if err := <-gone; err != nil {
			t.Errorf("HTTP/2 %t: %v", h2, err)
		}
	}
}
