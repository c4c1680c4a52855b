package shim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// TestProblems: keys that cannot be read are told of, until they can.
func TestProblems(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.pem")
	synctest.Test(t, func(t *testing.T) {
		api := root()
		api.JWT.KeysFile = path
		s := newShim(t, Options{}, []*apis.API{api})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(2 * keysLookAround)
		if p := s.Problems(); len(p) != 1 || !strings.Contains(p[0], path) {
			t.Errorf("missing file: %q", p)
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
			t.Error(err)
		}
		time.Sleep(keysRetry + 2*keysLookAround)
		if p := s.Problems(); len(p) != 0 {
			t.Errorf("with the file: %q", p)
		}
		s.UseAPIs(apis.NewSet(root()))
		cancel()
		<-done
	})
}

// TestSignaturesAreCheckedForAReason: who sends forged tokens must not have each of them checked, least of all by many
// keys. Only a token that could whitelist, or that somebody is to be blacklisted by, is worth it; of several in a
// request none is.
func TestSignaturesAreCheckedForAReason(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(user, id string) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"sub": user, "jti": id}).SignedString(private)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	api := root()
	api.JWT.Location, api.JWT.Username, api.JWT.KeysFile = "h:authorization:bearer", "sub", "keys"
	learn := false
	var learned lists.ID
	s := New(Options{Detect: func(_ *http.Request, seen Seen) (a apis.Answer, source lists.Source, ok bool) {
		if learn {
			learned, _ = seen.Credentials.Learnable()
		}
		return a, source, false
	}})
	settings := lists.DefaultSettings()
	settings.ASEDetectedAttack = true
	b := lists.NewBuilder(snapshot(t, white(lists.KindUsername, "", "boss")))
	b.Set(settings)
	s.Use(b.Snapshot(1), nil, true)
	s.UseAPIs(apis.NewSet(api))
	ring := s.rings.all()[0]
	known, err := newKey("", "", &private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ring.use([]verifyKey{known})
	checked := func() (n int) {
		for i := range ring.seen.shards {
			for _, b := range ring.seen.shards[i].buckets {
				for _, r := range b {
					if r.until != 0 {
						n++
					}
				}
			}
		}
		return n
	}

	mallory := sign("mallory", "1")
	if d := s.Decide(get("/", "Authorization: Bearer "+mallory)); d.Reason != PassUnlisted || checked() != 0 {
		t.Errorf("a token that says nothing of interest: %v, %d signatures checked", d.Reason, checked())
	}
	learn = true
	s.Decide(get("/", "Authorization: Bearer "+mallory))
	if learned.Value != mallory || checked() != 1 {
		t.Errorf("a verified token of an attacker: learned %v, %d signatures checked", learned, checked())
	}
	learn = false
	if d := s.Decide(get("/", "Authorization: Bearer "+sign("boss", "2"))); d.Reason != PassWhitelisted || checked() != 2 {
		t.Errorf("a whitelisted user: %v, %d signatures checked", d.Reason, checked())
	}
	many := "/?a=b"
	for i := range MaxTokens {
		many += "&access_token=" + sign("boss", fmt.Sprint("many", i))
	}
	if d := s.Decide(get(many)); d.Reason != PassUnlisted || checked() > 3 {
		t.Errorf("%d tokens of a whitelisted user: %v, %d signatures checked", MaxTokens, d.Reason, checked()-2)
	}
}

// TestKeysAreReadSideBySide: URLs that do not answer hold up no other.
func TestKeysAreReadSideBySide(t *testing.T) {
	key := ecKey(t)
	good, _, _ := keyServer(t, keySet(ecJWK("k1", &key.PublicKey)))
	var asked, given atomic.Int64
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
		given.Add(1)
	}))
	t.Cleanup(hanging.Close)
	all := []*apis.API{root()}
	all[0].JWT.JWKSURL = good
	for i := range 10 {
		api := root()
		api.ID, api.URL = fmt.Sprint("slow", i), fmt.Sprint("/slow", i)
		api.JWT.JWKSURL = fmt.Sprint(hanging.URL, "/", i)
		all = append(all, api)
	}
	s := newShim(t, l7, all, white(lists.KindUsername, "", "alice"))
	run(t, s)
	r := get("/", "Authorization: Bearer "+signed(t, jwt.SigningMethodES256, key, "k1", jwt.MapClaims{"sub": "alice"}))
	eventually(t, "the token verifies, and all are asked", func() bool { return s.Decide(r).Reason == PassWhitelisted && asked.Load() == 10 })
	if n := given.Load(); n != 0 {
		t.Errorf("%d of the others were given up before", n)
	}
}

// ring is a keyring with these keys, and the work to ask it.
func ring(t *testing.T, all ...verifyKey) (*keyring, *work) {
	t.Helper()
	k := &keyring{seen: newMemory(maxVerified)}
	k.use(all)
	w := new(work)
	w.reset(newWriter().empty(), nil, time.Now().Unix(), false)
	return k, w
}

func publicKey(t *testing.T, id string, private *ecdsa.PrivateKey) verifyKey {
	t.Helper()
	k, err := newKey(id, "", &private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestRefreshKeepsWhatWasVerified: tokens of keys that stay are not verified again, those of keys that go are no longer
// good, and what a new key signed is not taken for forged.
func TestRefreshKeepsWhatWasVerified(t *testing.T) {
	a, b := ecKey(t), ecKey(t)
	k, w := ring(t, publicKey(t, "a", a))
	ofA := signed(t, jwt.SigningMethodES256, a, "a", jwt.MapClaims{"sub": "x"})
	ofB := signed(t, jwt.SigningMethodES256, b, "b", jwt.MapClaims{"sub": "x"})
	remembered := func() bool {
		by, ok := k.seen.knows(w.summer.sum(w.index.secret, key{kind: lists.KindToken, form: formVerified, value: ofA}), w.now)
		return ok && k.keys.Load().has(by)
	}
	if !k.verify(w, ofA) || k.verify(w, ofB) || !remembered() {
		t.Fatal("with the first key alone")
	}
	before := k.keys.Load()
	k.use([]verifyKey{publicKey(t, "a", a)})
	if k.keys.Load() != before || !remembered() {
		t.Error("the same keys read again are taken for others")
	}
	k.use([]verifyKey{publicKey(t, "b", b), publicKey(t, "a", a)})
	if !remembered() {
		t.Error("with a second key the tokens of the first are forgotten")
	}
	if !k.verify(w, ofB) {
		t.Error("a token of the new key is taken for forged")
	}
	k.use([]verifyKey{publicKey(t, "a", b), publicKey(t, "b", b)}) // another key under the same id
	if remembered() || k.verify(w, ofA) || !k.verify(w, ofB) {
		t.Error("a key that has gone verifies on, or one that stays does not")
	}
}

// TestTriesAreBounded: without a key id a token is tried with a few keys, with one it finds any.
func TestTriesAreBounded(t *testing.T) {
	var all []verifyKey
	var private []*ecdsa.PrivateKey
	for i := range 20 {
		private = append(private, ecKey(t))
		all = append(all, publicKey(t, fmt.Sprint(i), private[i]))
	}
	k, w := ring(t, all...)
	sign := func(i int, id string) string {
		return signed(t, jwt.SigningMethodES256, private[i], id, jwt.MapClaims{"sub": "x"})
	}
	for i := range all {
		if !k.verify(w, sign(i, fmt.Sprint(i))) {
			t.Errorf("key %d with its id does not verify", i)
		}
		if got, want := k.verify(w, sign(i, "")), i < maxTried; got != want {
			t.Errorf("key %d without its id: verified %t, want %t", i, got, want)
		}
	}
	if n := len(k.keys.Load().choose("", "ES256")); n != maxTried {
		t.Errorf("%d keys are tried", n)
	}
	if n := len(k.keys.Load().choose("", "RS256")); n != 0 {
		t.Errorf("%d keys of another type are tried", n)
	}
	var set []string
	for i := range maxTried + 1 {
		if set = append(set, ecJWK("", &private[i].PublicKey)); len(set) <= maxTried {
			if _, err := parseKeys([]byte(keySet(set...)), false); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := parseKeys([]byte(keySet(set...)), false); err == nil || !strings.Contains(err.Error(), "give them ids") {
		t.Errorf("%d keys without an id: %v", len(set), err)
	}
}

// TestIssuerAndAudience: a token for somebody else verifies nobody here.
func TestIssuerAndAudience(t *testing.T) {
	private := ecKey(t)
	k, w := ring(t, publicKey(t, "", private))
	k.issuer, k.audience = "https://id.example.com", "shop"
	for _, c := range []struct {
		claims jwt.MapClaims
		want   bool
	}{
		{jwt.MapClaims{"iss": "https://id.example.com", "aud": "shop"}, true},
		{jwt.MapClaims{"iss": "https://id.example.com", "aud": []string{"a", "shop"}}, true},
		{jwt.MapClaims{"iss": "https://id.example.com", "aud": "other"}, false},
		{jwt.MapClaims{"iss": "https://id.example.com"}, false},
		{jwt.MapClaims{"iss": "https://id.example.com/", "aud": "shop"}, false},
		{jwt.MapClaims{"aud": "shop"}, false},
	} {
		if got := k.verify(w, signed(t, jwt.SigningMethodES256, private, "", c.claims)); got != c.want {
			t.Errorf("%v: verified %t", c.claims, got)
		}
	}
	for _, other := range []apis.JWT{{KeysFile: "k"}, {KeysFile: "k", Issuer: "a"}, {KeysFile: "k", Audience: "a"}} {
		var r rings
		r.changed = make(chan struct{}, 1)
		r.begin()
		if r.ring(apis.JWT{KeysFile: "k", Issuer: "a", Audience: "b"}) == r.ring(other) {
			t.Errorf("what is verified for %+v counts for another issuer and audience", other)
		}
		r.end()
	}
}
