package front

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFill(t *testing.T) {
	client := netip.MustParseAddr("2001:db8::7")
	tests := []struct {
		asked Asked
		want  string // "": malformed
	}{
		{Asked{Method: "GET", Target: "/a?b=c", Host: "h", Client: client}, "GET h http /a  b=c [2001:db8::7]:0 HTTP/1.1 0"},
		{Asked{Method: "GET", Target: "/", HTTPS: true, Proto: "HTTP/2.0", Remote: "x:1"}, "GET  https /   x:1 HTTP/2.0 0"},
		{Asked{Method: "PATCH", Target: "//evil/%2e?%zz;", Proto: "1.0", Client: client}, "PATCH  http //evil/. //evil/%2e %zz; [2001:db8::7]:0 HTTP/1.0 0"},
		{Asked{Method: "GET", Target: "http://other/x", Host: "h", Client: client}, "GET other http /x   [2001:db8::7]:0 HTTP/1.1 0"},
		{Asked{Method: "OPTIONS", Target: "*", Host: "h", Client: client}, "OPTIONS h http *   [2001:db8::7]:0 HTTP/1.1 0"},
		{Asked{Method: "POST", Target: "/", Client: client, Header: http.Header{"Content-Length": {"7"}}}, "POST  http /   [2001:db8::7]:0 HTTP/1.1 7"},
		{Asked{Method: "POST", Target: "/", Client: client, Header: http.Header{"Transfer-Encoding": {"chunked"}}}, "POST  http /   [2001:db8::7]:0 HTTP/1.1 -1"},
		{Asked{Method: "GET", Target: "/", Proto: "1.2"}, ""},
		{Asked{Method: "GET", Target: ""}, ""},
		{Asked{Method: "GET", Target: "a/b"}, ""},
		{Asked{Method: "GET", Target: "/%zz"}, ""},
		{Asked{Method: "GET", Target: "/a\x00"}, ""},
		{Asked{Method: "GET", Target: "http:opaque"}, ""},
		{Asked{Method: "CONNECT", Target: "host:443"}, ""},
		{Asked{Method: "G T", Target: "/"}, ""},
		{Asked{Method: "", Target: "/"}, ""},
		{Asked{Method: "GET", Target: "/", Header: http.Header{"Content-Length": {"-1"}}}, ""},
	}
	var r http.Request // one for all: nothing of one may show in the next
	for _, test := range tests {
		got := ""
		if test.asked.Fill(&r) {
			got = fmt.Sprint(r.Method, " ", r.Host, " ", r.URL.Scheme, " ", r.URL.Path, " ", r.URL.RawPath, " ", r.URL.RawQuery, " ", r.RemoteAddr, " ", r.Proto, " ", r.ContentLength)
		}
		if got != test.want {
			t.Errorf("%+v: got %q, want %q", test.asked, got, test.want)
		}
	}
}

// TestParseTargetAsNetURL: what is read in the fast way is read as net/url reads it.
func TestParseTargetAsNetURL(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		target := rapid.StringMatching(`/[a-zA-Z0-9/._~%?&=;#+ \x00-]*`).Draw(t, "target")
		var got url.URL
		ok := parseTarget(&got, target)
		want, err := url.ParseRequestURI(target)
		if ok != (err == nil) {
			t.Fatalf("%q: got %v, net/url says %v", target, ok, err)
		}
		if ok && got != *want {
			t.Errorf("%q: got %+v, want %+v", target, got, *want)
		}
	})
}

func TestJudge(t *testing.T) {
	answer := apis.Answer{Status: 403, Reason: "Unauthorized", Body: "Error: Unauthorized"}
	decisions := map[string]shim.Decision{
		"/pass":    {},
		"/block":   {Verdict: shim.Block, Reason: shim.Blacklisted, Answer: answer},
		"/refuse":  {Verdict: shim.Refuse, Reason: shim.UnknownAPI, Answer: answer},
		"/refuse2": {Verdict: shim.Refuse, Reason: shim.Detected, Answer: answer},
	}
	j := NewJudge(func(r *http.Request) shim.Decision {
		d, ok := decisions[r.URL.Path]
		if !ok {
			panic("no such path")
		}
		return d
	}, nil)
	undecided := Reply{Reason: "undecided", Answer: apis.Answer{Status: 403, Reason: "Forbidden", Body: "Error: Undecided"}}
	for path, want := range map[string]Reply{
		"/pass": {Pass: true}, "/block": {Reason: "blacklisted", Answer: answer}, "/refuse": {Reason: "unknown_api", Answer: answer},
		"/refuse2": {Reason: "detected", Answer: answer}, "/panic": undecided,
	} {
		if d := cmp.Diff(want, j.Judge(&http.Request{URL: &url.URL{Path: path}})); d != "" {
			t.Errorf("%s: %s", path, d)
		}
	}
	if d := cmp.Diff(undecided, j.Undecided()); d != "" {
		t.Error(d)
	}
	if got := j.Malformed(); got.Pass || got.Answer.Status != 400 {
		t.Errorf("got %+v", got)
	}
	if got, want := j.Counts(), (Counts{Passed: 1, Blocked: 1, Refused: 3, Undecided: 2}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestListenForGatewaysOnly(t *testing.T) {
	for _, test := range []struct {
		gateway  string
		accepted bool
	}{{"127.0.0.1/32", true}, {"192.0.2.0/24", false}} {
		var log bytes.Buffer
		l, err := Listen(Place{Address: "127.0.0.1:0", Gateways: []netip.Prefix{netip.MustParsePrefix(test.gateway)}, Setting: "check.gateways", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan net.Conn, 1)
		go func() {
			defer close(served)
			if c, err := l.Accept(); err == nil {
				served <- c
			}
		}()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if test.accepted {
			(<-served).Close()
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is not closed: %v", test.gateway, err)
		}
		c.Close()
		l.Close()
		<-served
		if got := l.Strange() == 0; got != test.accepted {
			t.Errorf("%s: counted %d strange peers", test.gateway, l.Strange())
		}
		said := strings.Contains(log.String(), "peer="+c.LocalAddr().String()) && strings.Contains(log.String(), "setting=check.gateways")
		if said == test.accepted || test.accepted && log.Len() > 0 {
			t.Errorf("%s: logged %q", test.gateway, log.String())
		}
	}
}

func TestListenOnUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := Listen(Place{Address: "unix:" + path})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("got %v, %v, want mode 0660", info.Mode(), err)
	}
	if _, err := Listen(Place{Address: "unix:" + path}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: got %v, want ErrInUse", err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept() // the first one accepted may be the look of the second listener
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()

	// Left by a dead process: replaced. A file: kept.
	l.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = Listen(Place{Address: "unix:" + path})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Place{Address: "unix:" + path}); err == nil {
		t.Error("a file was replaced")
	}
	if text, _ := os.ReadFile(path); string(text) != "mine" {
		t.Errorf("the file holds %q", text)
	}
}

// TestSocketAdmits: mode and group of a unix socket say who may open it.
func TestSocketAdmits(t *testing.T) {
	group := os.Getgid()
	if os.Getuid() == 0 {
		group = 12345 // others may give a file to groups of their own only
	}
	path := filepath.Join(t.TempDir(), "sock")
	l, err := Listen(Place{Address: "unix:" + path, Mode: 0o620, Group: strconv.Itoa(group)})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o620 || info.Sys().(*syscall.Stat_t).Gid != uint32(group) {
		t.Errorf("got %v, %+v, %v; want mode 0620, group %d", info.Mode(), info.Sys(), err, group)
	}
	l.Close()
	if l, err := Listen(Place{Address: "unix:" + path, Group: "no such group"}); err == nil || !strings.Contains(err.Error(), "no such group") {
		t.Errorf("a group that is not there: %v, %v", l, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what failed left a socket: %v", err)
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	for _, address := range []string{"nowhere", "unix:/does/not/exist/sock"} {
		if l, err := Listen(Place{Address: address}); err == nil {
			l.Close()
			t.Errorf("%s: no error", address)
		}
	}
}
