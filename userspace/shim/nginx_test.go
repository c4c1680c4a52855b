package shim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startNginx runs Debian's nginx until the test ends and returns the socket at which it says what it reads in a
// request: the cookie sid and the parameter sid.
func startNginx(t *testing.T) (socket string) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, "s")
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr crit;
events { worker_connections 64; }
http {
	access_log off; ignore_invalid_headers off; keepalive_requests 100000;
	client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/c;
	server { listen unix:%[2]s; location / { add_header X-Cookie "<$cookie_sid>"; add_header X-Arg "<$arg_sid>"; return 204; } }
}
`, dir, socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/nginx", "-e", "stderr", "-c", config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("nginx (the Debian package nginx-light, see .ci/deps): %v", err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		_ = cmd.Wait() // it was told to end
	})
	eventually(t, "nginx listens", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return socket
}

// TestNginxReads: our reading of $cookie_NAME and $arg_NAME is that of nginx itself.
func TestNginxReads(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 4))
	socket := startNginx(t)
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	first := func(values []string) string {
		if len(values) == 0 {
			return "<>"
		}
		return "<" + values[0] + ">"
	}
	found := 0
	for range 1500 {
		cookie := strings.Trim(mix(r), " \t")
		query := strings.NewReplacer(" ", "", "\t", "", "%00", "").Replace(mix(r))
		if r.IntN(2) == 0 {
			cookie += []string{"; sid=", ";sid =", ",  sid= ", " sid=", `"; SID=`}[r.IntN(5)] + strings.Trim(mix(r), " \t")
			query += []string{"&sid=", ";sid=", "&SID=", "&xsid="}[r.IntN(4)] + "v1%2fx"
		}
		cookies := []string{cookie}
		if r.IntN(3) == 0 {
			cookies = append(cookies, strings.Trim(mix(r), " \t"))
		}
		if _, err := fmt.Fprintf(c, "GET /?%s HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n", query, strings.Join(cookies, "\r\nCookie: ")); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusNoContent {
			t.Fatalf("cookies %q, query %q: %s", cookies, query, answer.Status)
		}
		wantCookie, wantArg := answer.Header.Get("X-Cookie"), answer.Header.Get("X-Arg")
		if got := first(nginxCookie(cookies, "sid")); got != wantCookie {
			t.Fatalf("cookies %q: nginx reads %q, the test %q", cookies, wantCookie, got)
		}
		if got := first(nginxArg(query, "sid")); got != wantArg {
			t.Fatalf("query %q: nginx reads %q, the test %q", query, wantArg, got)
		}
		if wantCookie != "<>" || wantArg != "<>" {
			found++
		}
	}
	if found < 300 {
		t.Errorf("nginx found something in %d of 1500 requests: they test little", found)
	}
}
