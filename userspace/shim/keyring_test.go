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
	"os"
	"path/filepath"
	"strings"
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
	seen := newMemory(maxVerified)
	ring.keys.Store(&keys{all: []verifyKey{known}, seen: seen})
	checked := func() (n int) {
		for i := range seen.shards {
			for _, b := range seen.shards[i].buckets {
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
