package userspace

import (
	"bufio"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

func TestDetectConfig(t *testing.T) {
	good := DetectConfig{TTL: map[string]string{"decoy": "1d", "invalid_method": "90s"}, Webhook: "https://hooks.example/x"}
	ttl, err := good.ttl()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[lists.Source]time.Duration{lists.Decoy: 24 * time.Hour, lists.Method: 90 * time.Second}, ttl); diff != "" {
		t.Error(diff)
	}
	for text, c := range map[string]DetectConfig{
		"":                           good,
		`detect.ttl: "manual" is no`: {TTL: map[string]string{"manual": "1d"}},
		`detect.ttl: "trap" is not`:  {TTL: map[string]string{"trap": "1d"}},
		`detect.ttl: invalid`:        {TTL: map[string]string{"decoy": "soon"}},
		`detect.webhook: "x"`:        {Webhook: "x"},
		`detect.ipv6_clients: -1 is`: {IPv6Clients: -1},
	} {
		config := DefaultConfig()
		config.Detect = c
		err := config.Check()
		if (err == nil) != (text == "") || err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %q, want %q in it", c, err, text)
		}
	}
}

// TestDecoySpellings: a decoy is touched however its path is written, if some backend would read it so; and nobody
// touches one by a path that only resembles it.
func TestDecoySpellings(t *testing.T) {
	for target, touched := range map[string]bool{
		"/shop/admin": true, "/shop/admin/x": true, "/shop/admin?q=1": true, "//shop//admin": true, "/shop/./admin": true,
		"/shop/admin;x": true, "/shop/admin;x=y/z": true, "/shop;v=1/admin": true, "/shop/admin%3Bx": true, "/shop/%61dmin": true,
		"/shop/%61dmin;x": true, "/shop/%2561dmin": true, "/shop/%25%36%31dmin": true, "/shop%2Fadmin": true, "/shop/x%2F..%2Fadmin": true,
		"/shop/x/..;/admin": true, "/shop/admin.": true, "/shop/admin../x": true, "/shop/admin%20": true, "/shop/admin.;x": true,
		"/shop/x%5C..%5Cadmin": true, "/shop/x/%2e%2e/admin": true, "/shop/admin%2Fx": true, "/shop/cgi.d/admin": true, "/shop/cgi.d./admin": true,

		"/shop": false, "/shop/administrator": false, "/shop/admin.html": false, "/shop/ADMIN": false, "/shop/x/admin": false,
		"/shop/x;admin": false, "/shop/x;y=../admin": false, "/shop/proxy;to=/admin": false, "/shop/x?y=/shop/admin": false,
		"/shop/a.dmin": false, "/shop/..admin": false, "/shop/admin-x": false, "/shop/%2561dministrator": false, "/admin": false,
		"/shop/x%2Fadmin": false, "/shop/admi%6E1": false, "/shop/cgi.d": false, "/shop/a%20b/c.": false, "/shop/100%25/admin": false,
	} {
		n, s := newDetecting(t)
		s.UseAPIs(apis.NewSet(
			&apis.API{ID: "root", Hostname: "*", URL: "/"},
			&apis.API{ID: "shop", Hostname: "*", URL: "/shop", EnableBlocking: true,
				Decoy: apis.Decoy{Enabled: true, Subpaths: []string{"/admin", "/shop/cgi.d/admin"}, Answer: apis.Answer{Status: http.StatusTeapot}}}))
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = attacker + ":4711"
		d := s.Decide(r)
		ids := n.listedBy(t.Context())
		switch {
		case touched && (d.Answer.Status != http.StatusTeapot || !slices.Equal(ids, []string{"ip " + attacker})):
			t.Errorf("%s: %v, blacklisted %v", target, d.Reason, ids)
		case !touched && (d.Verdict != shim.Pass || len(ids) > 0):
			t.Errorf("%s: %v, blacklisted %v", target, d.Reason, ids)
		}
	}
}
