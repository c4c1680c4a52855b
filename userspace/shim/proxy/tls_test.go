package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/shim"
)

// writeCertificate writes a self-signed pair for these names and returns the files.
func writeCertificate(t *testing.T, dir, file string, names ...string) Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, _ := x509.MarshalPKCS8PrivateKey(key)
	c := Certificate{filepath.Join(dir, file+".crt"), filepath.Join(dir, file+".key")}
	for name, block := range map[string]*pem.Block{c.CertFile: {Type: "CERTIFICATE", Bytes: der}, c.KeyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// shown is the first name of the certificate that a client is shown.
func (r *rig) shown(name string) string {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.tls, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestCertificatesByNameAndReloaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := writeCertificate(t, dir, "one", "one.example"), writeCertificate(t, dir, "two", "two.example", "*.two.example")
	r := newRig(t, Options{Certificates: []Certificate{one, two}}, rootAPI())
	for name, want := range map[string]string{"one.example": "one.example", "two.example": "two.example", "a.two.example": "two.example", "other": "one.example", "": "one.example"} {
		if got := r.shown(name); got != want {
			t.Errorf("%q: shown the certificate of %s, want %s", name, got, want)
		}
	}
	if err := os.WriteFile(two.CertFile, []byte("not yet"), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, "the broken file is in the log", func() error {
		if !strings.Contains(r.log.String(), "the one before stays in force") {
			return fmt.Errorf("not there")
		}
		return nil
	})
	if got := r.shown("two.example"); got != "two.example" {
		t.Errorf("with a broken file: shown the certificate of %s", got)
	}
	writeCertificate(t, dir, "two", "new.example", "two.example")
	testenv.Eventually(t, patience, "the new certificate is shown", func() error {
		if got := r.shown("two.example"); got != "new.example" {
			return fmt.Errorf("shown the certificate of %s", got)
		}
		return nil
	})
	if _, err := New(Options{Judge: r.judge, Certificates: []Certificate{{two.CertFile, one.KeyFile}}}); err == nil || !strings.Contains(err.Error(), two.CertFile) {
		t.Errorf("a pair that does not fit: %v", err)
	}
}

// TestBothVersionsOverTLS: the same request in HTTP/1.1 and HTTP/2, with TLS and without, reaches the backend as the
// same, and so do the answers of ours.
func TestEveryWayIn(t *testing.T) {
	b := newRecorder(t, nil)
	r := newRig(t, Options{Certificates: []Certificate{writeCertificate(t, t.TempDir(), "one", "one.example")}}, rootAPI(b.address))
	r.judge.decide = func(q *http.Request) (shim.Decision, bool) { return blocked, q.URL.Path == "/bad" }
	for _, over := range []string{"http", "https"} {
		for _, h2 := range []bool{false, true} {
			what := fmt.Sprintf("%s HTTP/2 %t", over, h2)
			base := over + "://" + map[string]string{"http": r.plain, "https": r.tls}[over]
			c := web(t, h2)
			for i, body := range []io.Reader{nil, strings.NewReader("hello"), io.MultiReader(strings.NewReader("hello"))} {
				q, _ := http.NewRequest("PUT", base+"/x?a=%zz;b", body)
				q.Host = "shop.com"
				q.Header.Set("X-Forwarded-For", "9.9.9.9")
				q.Header["X_Forwarded_Proto"] = []string{"gopher"}
				a, err := c.Do(q)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				text, _ := io.ReadAll(a.Body)
				a.Body.Close()
				want := fmt.Sprintf("PUT /x?a=%%zz;b %d", min(i, 1)*5)
				if string(text) != want || a.ProtoMajor == 2 != h2 {
					t.Errorf("%s: got %s %q, want %q", what, a.Proto, text, want)
				}
				_, heads, _ := b.got()
				head := heads[len(heads)-1]
				for _, line := range []string{"Host: shop.com", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: " + over, "X-Forwarded-Host: shop.com"} {
					if strings.Count(head, "\r\n"+line+"\r\n") != 1 {
						t.Errorf("%s: backend got %q, want one line %q", what, head, line)
					}
				}
				if strings.Contains(head, "9.9.9.9") || strings.Contains(head, "gopher") {
					t.Errorf("%s: backend got what was forged: %q", what, head)
				}
			}
			a, err := c.Get(base + "/bad")
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(a.Body)
			a.Body.Close()
			if a.StatusCode != 403 || string(text) != "Error: Unauthorized" || !h2 && a.Status != "403 Unauthorized" {
				t.Errorf("%s: blocked with %s, %q", what, a.Status, text)
			}
		}
	}
	if _, heads, _ := b.got(); len(heads) != 12 {
		t.Errorf("backend got %d requests, want 12", len(heads))
	}
}

func TestBackendsOverTLS(t *testing.T) {
	dir := t.TempDir()
	pair := writeCertificate(t, dir, "backend", "backend.example")
	loaded, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{loaded}})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, "secret") })}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	api := rootAPI(l.Addr().String())
	api.ServerTLS = true
	roots := x509.NewCertPool()
	text, _ := os.ReadFile(pair.CertFile)
	roots.AppendCertsFromPEM(text)
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{BackendRoots: roots}, "secret"}, {Options{BackendUnverified: true}, "secret"}, {Options{}, "Error: Bad Gateway"},
	} {
		r := newRig(t, test.o, api)
		for _, h2 := range []bool{false, true} {
			a, err := web(t, h2).Get("http://" + r.plain + "/")
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(a.Body)
			a.Body.Close()
			if string(got) != test.want {
				t.Errorf("HTTP/2 %t: got %q, want %q", h2, got, test.want)
			}
		}
	}
}

func TestProxyProtocol(t *testing.T) {
	b := newRecorder(t, nil)
	source, to := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1234}, &net.TCPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 80}
	header := func(version byte) []byte {
		var buf bytes.Buffer
		if _, err := proxyproto.HeaderProxyFromAddrs(version, source, to).WriteTo(&buf); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	trusted := newRig(t, Options{ProxyProtocol: true, TrustedProxies: []netip.Prefix{loopback}, Certificates: []Certificate{writeCertificate(t, t.TempDir(), "a", "a")}}, rootAPI(b.address))
	var relayed bool
	trusted.judge.decide = func(q *http.Request) (shim.Decision, bool) {
		relayed = shim.ClaimsOf(q.Context()).Relayed
		return shim.Decision{}, false
	}
	last := func() string { _, heads, _ := b.got(); return heads[len(heads)-1] }
	for _, version := range []byte{1, 2} {
		c := trusted.dial()
		c.send("%sGET /%d HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n", header(version), version)
		c.expect("200 OK", fmt.Sprintf("GET /%d 0", version))
		if head := last(); !strings.Contains(head, "X-Forwarded-For: 192.0.2.7\r\n") || !relayed {
			t.Errorf("version %d: relayed %t, backend got %q", version, relayed, head)
		}
		raw := dialRaw(t, trusted.tls)
		raw.send("%s", header(version))
		over := tls.Client(raw.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return over, over.Handshake() }, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		a, err := tr.RoundTrip(must(http.NewRequest("GET", "https://a/tls", nil)))
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if head := last(); a.ProtoMajor != 2 || !strings.Contains(head, "X-Forwarded-For: 192.0.2.7\r\n") || !relayed {
			t.Errorf("version %d over TLS: %s, relayed %t, backend got %q", version, a.Proto, relayed, head)
		}
		_ = raw.Close()
	}
	c := trusted.dial()
	c.send("GET /none HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expect("200 OK", "GET /none 0")
	if head := last(); !strings.Contains(head, "X-Forwarded-For: 127.0.0.1\r\n") || relayed {
		t.Errorf("without a header: relayed %t, backend got %q", relayed, head)
	}
	c = trusted.dial()
	c.send("PROXY TCP4 nonsense\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expectEnd()

	_, before, _ := b.got()
	stranger := newRig(t, Options{ProxyProtocol: true}, rootAPI(b.address))
	c = stranger.dial()
	c.send("%sGET / HTTP/1.1\r\nHost: a\r\n\r\n", header(1))
	c.expect("400 Bad Request", "Error: Malformed Request")
	if _, after, _ := b.got(); len(after) != len(before) {
		t.Errorf("an untrusted peer's header was let pass: backend got %q", after[len(before):])
	}
}

// TestRequestWithoutTLS: who takes the port of TLS for one without is told.
func TestRequestWithoutTLS(t *testing.T) {
	r := newRig(t, Options{Certificates: []Certificate{writeCertificate(t, t.TempDir(), "a", "a")}}, rootAPI())
	c := dialRaw(t, r.tls)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expect("400 Bad Request", "Error: Malformed Request")
	c.expectEnd()
	if s := r.p.Stats(); s.Handshakes != 1 || len(r.judge.all()) != 0 {
		t.Errorf("counted %+v", s)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
