package userspace

import (
	"context"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/detect"
	"github.com/portcullis/portcullis/userspace/shim"
)

const (
	attacker = "198.51.100.66"
	lb       = "192.0.2.80" // a trusted proxy
)

// victim's credentials, which the attacker has not seen but may try to name.
var (
	victimJWT    = jwt(`{"alg":"HS256"}`, `{"sub":"victim"}`, "right")
	victimCookie = "JSESSIONID=4f1c0d9b5ae87732"
)

func jwt(header, payload, signature string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(header)) + "." + enc([]byte(payload)) + "." + enc([]byte(signature))
}

// newDetecting is a node that has lists, detectors and a shim, and neither kernel nor listeners.
func newDetecting(t *testing.T) (*node, *shim.Shim) {
	t.Helper()
	n := &node{config: DefaultConfig(), log: slog.New(slog.DiscardHandler), limited: slog.New(slog.DiscardHandler)}
	n.config.TrustedProxies = []string{lb}
	var err error
	if n.store, err = store.Open(store.Options{Dir: t.TempDir(), Logger: n.log}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.store.Close() })
	n.protected.Store(&[]protection{{prefix: netip.MustParsePrefix(lb + "/32"), risk: riskProxy, why: "trusted proxy"}})
	if n.detection, err = newDetection(n); err != nil {
		t.Fatal(err)
	}
	on := lists.Operation{Op: lists.OpSet, Settings: func(s lists.Settings) lists.Settings { s.ASEDetectedAttack = true; return s }}
	if _, err := n.store.Apply(t.Context(), lists.Batch{Ops: []lists.Operation{on}, By: "admin", Via: "cli"}); err != nil {
		t.Fatal(err)
	}
	s := shim.New(shim.Options{TrustedProxies: n.trustedProxies(), Detect: n.detection.look, Logger: n.log})
	s.Use(n.store.Snapshot(), nil, true)
	s.UseAPIs(apis.NewSet(&apis.API{ID: "shop", Hostname: "*", URL: "/", EnableBlocking: true, Cookie: "JSESSIONID", OAuth2Token: true,
		JWT: apis.JWT{Location: "h:authorization:bearer", Username: "sub"}, Pattern: apis.Pattern{Methods: []string{"GET"}}}))
	return n, s
}

// listedBy writes what the detectors found so far, and returns what is on the blacklist.
func (n *node) listedBy(ctx context.Context) (ids []string) {
	for len(n.detection.findings) > 0 {
		n.detection.apply(ctx, n.detection.more([]lists.Entry{<-n.detection.findings}))
	}
	for e := range n.store.Snapshot().Entries(lists.Blacklist) {
		ids = append(ids, e.ID.String())
	}
	return ids
}

func attack(peer string, lines ...string) *http.Request {
	r := httptest.NewRequest(http.MethodDelete, "http://shop.com/x", nil)
	r.RemoteAddr = peer + ":4711"
	for i := 0; i < len(lines); i += 2 {
		r.Header.Add(lines[i], lines[i+1])
	}
	return r
}

// TestNobodyCanHaveOthersBlocked: a request that is an attack, made up so that somebody else should be blamed, blames
// who sent it, or nobody.
func TestNobodyCanHaveOthersBlocked(t *testing.T) {
	itself := []string{"ip " + attacker}
	tests := []struct {
		name string
		r    *http.Request
		want []string
	}{
		{"nothing but an address", attack(attacker), itself},
		{"a forged JWT with the victim's claims", attack(attacker, "Authorization", "Bearer "+jwt(`{"alg":"HS256"}`, `{"sub":"victim"}`, "forged")), itself},
		{"a JWT without a signature", attack(attacker, "Authorization", "Bearer "+jwt(`{"alg":"none"}`, `{"sub":"victim"}`, "")), itself},
		{"a token that nobody has been seen with", attack(attacker, "Authorization", "Bearer guessed"), itself},
		{"somebody else's cookie, guessed", attack(attacker, "Cookie", "JSESSIONID=guessed"), itself},
		{"a user name", attack(attacker, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("victim:x"))), itself},
		{"a forged X-Forwarded-For", attack(attacker, "X-Forwarded-For", "203.0.113.9"), itself},
		{"a forged X-Forwarded-For through a proxy", attack(lb, "X-Forwarded-For", "203.0.113.9, "+attacker), itself},
		{"the same in two lines", attack(lb, "X-Forwarded-For", "203.0.113.9", "X-Forwarded-For", attacker), itself},
		{"a proxy that names nobody", attack(lb), nil},
		{"a proxy that names nonsense", attack(lb, "X-Forwarded-For", "203.0.113.9, unknown"), nil},
		{"another header of proxies", attack(attacker, "X-Real-Ip", "203.0.113.9", "Forwarded", "for=203.0.113.9", "True-Client-Ip", "203.0.113.9"), itself},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n, s := newDetecting(t)
			if d := s.Decide(test.r); d.Reason != shim.Detected || d.Source != lists.Method {
				t.Fatalf("judged %v by %v", d.Reason, d.Source)
			}
			if diff := cmp.Diff(test.want, n.listedBy(t.Context())); diff != "" {
				t.Errorf("blacklisted (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAcceptedCredentials: what the backend has accepted is what is blacklisted, as long as it is the only one.
func TestAcceptedCredentials(t *testing.T) {
	tests := []struct {
		name  string
		lines []string
		want  []string
	}{
		{"the token", []string{"Authorization", "Bearer " + victimJWT, "Cookie", victimCookie}, []string{"token " + victimJWT}},
		{"the cookie", []string{"Cookie", victimCookie}, []string{"cookie JSESSIONID 4f1c0d9b5ae87732"}},
		{"its claims under another signature", []string{"Authorization", "Bearer " + jwt(`{"alg":"HS256"}`, `{"sub":"victim"}`, "wrong")}, []string{"ip " + attacker}},
		{"two tokens", []string{"Authorization", "Bearer " + victimJWT, "Authorization", "Bearer mine"}, []string{"ip " + attacker}},
		{"two cookies", []string{"Cookie", victimCookie + "; JSESSIONID=mine"}, []string{"ip " + attacker}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n, s := newDetecting(t)
			honest := attack("203.0.113.9", "Authorization", "Bearer "+victimJWT, "Cookie", victimCookie)
			honest.Method = http.MethodGet
			d := s.Decide(honest)
			if d.Verdict != shim.Pass {
				t.Fatalf("an honest request: %v", d.Reason)
			}
			s.Answered(d, http.StatusOK)
			s.Decide(attack(attacker, test.lines...))
			if diff := cmp.Diff(test.want, n.listedBy(t.Context())); diff != "" {
				t.Errorf("blacklisted (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWhitelistedAreNotDetected: neither held to the rules nor listed; and what is switched off lists nobody.
func TestWhitelistedAreNotDetected(t *testing.T) {
	n, s := newDetecting(t)
	add := lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{Key: lists.Key{List: lists.Whitelist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindIP, Value: attacker}}}}
	if _, err := n.store.Apply(t.Context(), lists.Batch{Ops: []lists.Operation{add}, By: "admin", Via: "cli"}); err != nil {
		t.Fatal(err)
	}
	s.Use(n.store.Snapshot(), nil, true)
	if d := s.Decide(attack(attacker)); d.Verdict != shim.Pass || d.Reason != shim.PassWhitelisted {
		t.Errorf("whitelisted: %v %v", d.Verdict, d.Reason)
	}
	if ids := n.listedBy(t.Context()); len(ids) != 0 {
		t.Errorf("blacklisted: %v", ids)
	}
}

// TestAlert: the first touch of a decoy is posted to the webhook, once; a webhook that fails, or a full queue, holds up
// nobody.
func TestAlert(t *testing.T) {
	got := make(chan string, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Header.Get("Content-Type") + " " + string(body)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer hook.Close()
	n, s := newDetecting(t)
	n.config.Detect.Webhook = hook.URL
	s.UseAPIs(apis.NewSet(&apis.API{ID: "shop", Hostname: "*", URL: "/", EnableBlocking: true, Decoy: apis.Decoy{Enabled: true, Subpaths: []string{"/admin"}}}))
	for range 3 {
		r := attack(attacker)
		r.Method, r.URL.Path = http.MethodGet, "/admin\u202e"
		s.Decide(r) // beside the decoy: no alert
		r.URL.Path = "/admin/x"
		s.Decide(r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.detection.run(ctx) }()
	select {
	case text := <-got:
		if want := `application/json {"event":"decoy_touched",`; !strings.HasPrefix(text, want) {
			t.Errorf("posted %s", text)
		}
		if want := `"client":"` + attacker + `","api":"shop","method":"GET","path":"/admin/x","in_context":true,"blacklisted":true}`; !strings.HasSuffix(text, want) {
			t.Errorf("posted %s, want it to end in %s", text, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was posted")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(got) != 0 {
		t.Errorf("posted again: %s", <-got)
	}
	for i := range 2 * maxAlerts {
		n.detection.alert(detect.Touch{Client: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})})
	}
	if unsent := n.detection.unsent.Load(); unsent != maxAlerts {
		t.Errorf("%d alerts are not sent, want %d", unsent, maxAlerts)
	}
}

// TestWhatAnybodySendsIsNotLearned: backends answer requests of those who have not logged in, and what these bear they
// all bear. Who attacks with it must not have all of them blocked.
func TestWhatAnybodySendsIsNotLearned(t *testing.T) {
	for _, lines := range [][]string{
		{"Authorization", "Bearer null"}, {"Authorization", "Bearer undefined"}, {"Cookie", "JSESSIONID=deleted"}, {"Cookie", "JSESSIONID=anonymous"},
	} {
		n, s := newDetecting(t)
		public := attack(attacker, lines...)
		public.Method = http.MethodGet
		s.Answered(s.Decide(public), http.StatusOK)
		if d := s.Decide(attack(attacker, lines...)); d.Reason != shim.Detected {
			t.Fatalf("%q: %v", lines, d.Reason)
		}
		if diff := cmp.Diff([]string{"ip " + attacker}, n.listedBy(t.Context())); diff != "" {
			t.Errorf("%q: blacklisted (-want +got):\n%s", lines, diff)
		}
	}
}
