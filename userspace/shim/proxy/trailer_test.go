package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/portcullis/portcullis/lists"
)

// lists has the shim in force with these entries.
func (r *rig) lists(entries ...lists.Entry) {
	b := lists.NewBuilder(nil)
	b.Set(lists.DefaultSettings())
	for _, e := range entries {
		b.Put(e)
	}
	r.judge.shim.Use(b.Snapshot(1), nil, true)
}

func entry(list lists.List, kind lists.Kind, name, value string) lists.Entry {
	return lists.Entry{Key: lists.Key{List: list, Source: lists.Manual, ID: lists.ID{Kind: kind, Name: name, Value: value}}}
}

// TestTrailersAreJudged: a blacklisted credential after the body is one: the client is answered as if it were in the
// header, and no backend gets the request whole. Nothing after the body whitelists.
func TestTrailersAreJudged(t *testing.T) {
	var whole atomic.Int64
	got := make(chan http.Header, 1)
	b := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			return
		}
		whole.Add(1)
		got <- q.Trailer
		_, _ = io.WriteString(w, "done")
	})
	api := rootAPI(b)
	api.APIKeyHeader, api.Cookie = "X-Key", "session"
	r := newRig(t, Options{}, api)
	r.lists(
		entry(lists.Blacklist, lists.KindAPIKey, "X-Other", "listed"), entry(lists.Blacklist, lists.KindAPIKey, "X-Key", "listed"),
		entry(lists.Blacklist, lists.KindToken, "", "listed"), entry(lists.Blacklist, lists.KindCookie, "session", "listed"),
		entry(lists.Whitelist, lists.KindCookie, "session", "friend"), entry(lists.Whitelist, lists.KindAPIKey, "X-Key", "friend"),
	)
	type trailers map[string]string
	tests := []struct {
		name    string
		header  string // a cookie
		late    trailers
		status  int
		reaches trailers
	}{
		{"harmless", "a=1", trailers{"X-Sum": "7", "X-Other": "unlisted"}, 200, trailers{"X-Sum": "7", "X-Other": "unlisted"}},
		{"credentials that nobody listed", "a=1", trailers{"X-Sum": "7", "Cookie": "session=x", "X-Key": "x"}, 200, trailers{"X-Sum": "7"}},
		{"a key under a name of no API", "a=1", trailers{"X-Other": "listed"}, 403, nil},
		{"the same name in other letters", "a=1", trailers{"X_other": "listed"}, 403, nil},
		{"the key of the API", "a=1", trailers{"X-Key": "listed"}, 403, nil},
		{"a token", "a=1", trailers{"Authorization": "Bearer listed"}, 403, nil},
		{"a token that nobody listed", "a=1", trailers{"X-Sum": "7", "Authorization": "Bearer x"}, 200, trailers{"X-Sum": "7"}},
		{"a cookie", "a=1", trailers{"Cookie": "b=1; session=listed"}, 403, nil},
		{"a friend's cookie beside it", "a=1", trailers{"Cookie": "session=friend", "X-Other": "listed"}, 403, nil},
		{"a friend's key beside it", "a=1", trailers{"X-Key": "friend", "X-Other": "listed"}, 403, nil},
		{"a friend sends it", "session=friend", trailers{"X-Other": "listed", "X-Sum": "7"}, 200, trailers{"X-Other": "listed", "X-Sum": "7"}},
	}
	for _, test := range tests {
		for _, h2 := range []bool{false, true} {
			before := whole.Load()
			q, err := http.NewRequest("POST", "http://"+r.plain+"/", io.MultiReader(strings.NewReader("body")))
			if err != nil {
				t.Fatal(err)
			}
			q.Header.Set("Cookie", test.header)
			q.Trailer = make(http.Header)
			for name, value := range test.late {
				q.Trailer[name] = []string{value}
			}
			a, err := web(t, h2).Do(q)
			if h2 && test.late["Authorization"] != "" { // HTTP/2's reader refuses it whatever it says
				if err == nil {
					t.Errorf("%s, HTTP/2: %s", test.name, a.Status)
					a.Body.Close()
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s, HTTP/2 %t: %v", test.name, h2, err)
			}
			body, err := io.ReadAll(a.Body)
			a.Body.Close()
			if err != nil || a.StatusCode != test.status {
				t.Errorf("%s, HTTP/2 %t: %s %q, %v", test.name, h2, a.Status, body, err)
			}
			if test.status != 200 {
				if string(body) != "Error: Unauthorized" {
					t.Errorf("%s, HTTP/2 %t: answered %q", test.name, h2, body)
				}
				continue
			}
			if reached := <-got; len(reached) != len(test.reaches) {
				t.Errorf("%s, HTTP/2 %t: the backend got the trailers %v", test.name, h2, reached)
			} else {
				for name, want := range test.reaches {
					if reached.Get(name) != want {
						t.Errorf("%s, HTTP/2 %t: the backend got the trailers %v", test.name, h2, reached)
					}
				}
			}
			if whole.Load() != before+1 {
				t.Errorf("%s, HTTP/2 %t: the backend got %d requests", test.name, h2, whole.Load()-before)
			}
		}
	}
	if n := whole.Load(); n != 7 {
		t.Errorf("the backend got %d requests whole, want 7", n)
	}
	r.eventually("all are counted, and no backend blamed", func(s Stats) bool { return s.Blocked == 13 && s.BackendErrors == 0 })
}

// TestUnannouncedTrailers: what the header does not announce is judged, and no backend gets it.
func TestUnannouncedTrailers(t *testing.T) {
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return false
			}
			if line == "\r\n" {
				_, err := io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				return err == nil
			}
		}
	})
	r := newRig(t, Options{}, rootAPI(b.address))
	r.lists(entry(lists.Blacklist, lists.KindAPIKey, "X-Other", "listed"))
	for trailer, want := range map[string]string{"X-Other: unlisted": "204 No Content", "x-other: listed": "403 Unauthorized"} {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 7\r\n%s\r\n\r\n", trailer)
		a, err := http.ReadResponse(c.in, nil)
		if err != nil || a.Status != want {
			t.Errorf("%s: %v, %v, want %s", trailer, a, err, want)
		}
	}
	raw, _, _ := b.got()
	if !strings.Contains(raw, "X-Sum: 7") || strings.Contains(strings.ToLower(raw), "x-other") {
		t.Errorf("the backend got %q", raw)
	}
	r.eventually("both are counted", func(s Stats) bool { return s.Passed == 2 && s.Blocked == 1 })
}
