package shim

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// signed makes a token.
func signed(t testing.TB, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// spellings are the texts that decode to a base64 segment's bytes: its unused bits set otherwise.
func spellings(segment string) (all []string) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, segment[len(segment)-1])
	free := map[int]int{0: 1, 2: 16, 3: 4}[len(segment)%4]
	for i := range free {
		all = append(all, segment[:len(segment)-1]+string(alphabet[last&^(free-1)|i]))
	}
	return all
}

// TestListedJWT: every spelling of a listed token is blocked; an entry that a detector made is held to the signature,
// so that nobody has somebody else blocked whose payload he knows.
func TestListedJWT(t *testing.T) {
	key := ecKey(t)
	token := signed(t, jwt.SigningMethodES256, key, "", jwt.MapClaims{"sub": "victim"})
	dot := strings.LastIndexByte(token, '.')
	body, signature := token[:dot], token[dot+1:]
	raw, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	// (r, n-s) verifies too.
	s := new(big.Int).SetBytes(raw[32:])
	mirrored := append([]byte(nil), raw...)
	s.Sub(key.Params().N, s).FillBytes(mirrored[32:])
	mirror := body + "." + base64.RawURLEncoding.EncodeToString(mirrored)
	if _, err := jwt.Parse(mirror, func(*jwt.Token) (any, error) { return &key.PublicKey, nil }); err != nil {
		t.Fatalf("the test is wrong: %v", err)
	}
	same := []string{token, mirror, body + "." + signature + "=="}
	for _, sp := range spellings(signature) {
		same = append(same, body+"."+sp)
	}
	if len(same) != 3+16 {
		t.Fatalf("%d spellings", len(same))
	}
	others := []string{body + ".", body + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), body + ".x", body + ".!"}
	decide := func(source lists.Source, token string) Verdict {
		e := black(lists.KindToken, "", token)
		e.Source = source
		return newShim(t, l7, []*apis.API{root()}, e).Decide(get("/", "Authorization: Bearer "+same[0])).Verdict
	}
	for _, spelled := range same {
		if got := decide(lists.Manual, spelled); got != Block {
			t.Errorf("manual entry %s: %v", spelled, got)
		}
		if got := decide(lists.Decoy, spelled); got != Block {
			t.Errorf("automatic entry %s: %v", spelled, got)
		}
	}
	for _, other := range others {
		if got := decide(lists.Manual, other); got != Block {
			t.Errorf("manual entry %s: %v, whatever the signature", other, got)
		}
		if got := decide(lists.Decoy, other); got != Pass {
			t.Errorf("automatic entry of a forged token %s: the victim's is %v", other, got)
		}
	}
	// What has dots is not therefore a web token.
	for _, opaque := range []string{"v2.public.aaaa", "a.b.c", "1.2.3"} {
		e := black(lists.KindToken, "", opaque)
		sh := newShim(t, l7, []*apis.API{root()}, e)
		if d := sh.Decide(get("/", "Authorization: Bearer "+opaque)); d.Verdict != Block {
			t.Errorf("%s: %v", opaque, d.Verdict)
		}
		if d := sh.Decide(get("/", "Authorization: Bearer "+opaque[:len(opaque)-1]+"z")); d.Verdict != Pass {
			t.Errorf("%s with another end: %v", opaque, d.Verdict)
		}
	}
}

func TestClaims(t *testing.T) {
	for object, want := range map[string]string{
		`{"sub":"eve"}`: "[eve]",
		` { "a" : [1,{"sub":"x"}] , "sub" : "eve" } `: "[eve]",
		`{"sub":["eve","bob"]}`:                       "[eve]",
		`{"sub":[]}`:                                  "[]",
		`{"sub":[["eve"]]}`:                           "[]",
		`{"sub":42}`:                                  "[42]",
		`{"sub":-1.5e3}`:                              "[-1.5e3]",
		`{"sub":null}`:                                "[]",
		`{"sub":true}`:                                "[]",
		`{"sub":{"a":"b"}}`:                           "[]",
		`{"sub":"e\u0076e\n"}`:                        "[eve\n]",
		`{"s\u0075b":"eve"}`:                          "[eve]",
		`{"sub":"a","sub":"b"}`:                       "[a b]",
		`{"a":"}\"","sub":"eve"}`:                     "[eve]",
		`{"sub":"eve`:                                 "[]",
		`{"sub":`:                                     "[]",
		`{"sub"`:                                      "[]",
		`{"a":[[[`:                                    "[]",
		`["sub"]`:                                     "[]",
		``:                                            "[]",
		`{`:                                           "[]",
		`{"x":"\`:                                     "[]",
	} {
		got := []string{}
		claims([]byte(object), "sub", func(v string) { got = append(got, v) })
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %q, want %s", object, got, want)
		}
	}
}

// FuzzClaims: what encoding/json reads is among what we read.
func FuzzClaims(f *testing.F) {
	f.Add(`{"sub":"a","sub":["b"],"c":{"sub":1}}`)
	f.Fuzz(func(t *testing.T, object string) {
		var found []string
		claims([]byte(object), "sub", func(v string) { found = append(found, strings.Clone(v)) })
		var m map[string]any
		if json.Unmarshal([]byte(object), &m) != nil {
			return
		}
		want, ok := m["sub"].(string)
		if list, isList := m["sub"].([]any); isList && len(list) > 0 {
			want, ok = list[0].(string)
		}
		if ok && !strings.Contains(fmt.Sprintf("%q", found), fmt.Sprintf("%q", want)) && strings.ToValidUTF8(object, "") == object {
			t.Fatalf("%s: %q, want %q", object, found, want)
		}
	})
}

// keyServer serves a key set that can be replaced, and counts who asks.
func keyServer(t *testing.T, set string) (address string, replace func(string), asked *atomic.Int64) {
	t.Helper()
	var text atomic.Value
	text.Store(set)
	asked = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, text.Load())
	}))
	t.Cleanup(server.Close)
	return server.URL, func(s string) { text.Store(s) }, asked
}

func keySet(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func ecJWK(id string, k *ecdsa.PublicKey) string {
	point, err := k.Bytes()
	if err != nil {
		panic(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"use":"sig","x":%q,"y":%q}`, id, enc(point[1:33]), enc(point[33:]))
}

// run starts what keeps keys and ends streams until the test ends.
func run(t *testing.T, s *Shim) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != context.Canceled {
			t.Errorf("Run: %v", err)
		}
	})
}

// eventually polls until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestVerifiedUsername: only a token that one of the keys verifies may whitelist.
func TestVerifiedUsername(t *testing.T) {
	good, bad := ecKey(t), ecKey(t)
	address, _, _ := keyServer(t, keySet(ecJWK("k1", &good.PublicKey)))
	api := root()
	api.JWT.JWKSURL = address
	s := newShim(t, l7, []*apis.API{api}, white(lists.KindUsername, "", "alice"), black(lists.KindCookie, "c", "bad"))
	decide := func(token string) Reason {
		return s.Decide(get("/", "Cookie: c=bad", "Authorization: Bearer "+token)).Reason
	}
	alice := jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	token := signed(t, jwt.SigningMethodES256, good, "k1", alice)
	if got := decide(token); got != Blacklisted {
		t.Fatalf("before there are keys: %v", got)
	}
	run(t, s)
	eventually(t, "the token verifies", func() bool { return decide(token) == PassWhitelisted })
	point, err := good.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	dot := strings.LastIndexByte(token, '.')
	for what, forged := range map[string]string{
		"another key":         signed(t, jwt.SigningMethodES256, bad, "k1", alice),
		"unknown key id":      signed(t, jwt.SigningMethodES256, bad, "k2", alice),
		"no signature":        token[:dot+1],
		"none":                signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "k1", alice),
		"the key as a secret": signed(t, jwt.SigningMethodHS256, point, "k1", alice),
		"ended":               signed(t, jwt.SigningMethodES256, good, "k1", jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(-time.Minute).Unix()}),
		"not yet":             signed(t, jwt.SigningMethodES256, good, "k1", jwt.MapClaims{"sub": "alice", "nbf": time.Now().Add(time.Hour).Unix()}),
		"somebody else":       signed(t, jwt.SigningMethodES256, good, "k1", jwt.MapClaims{"sub": "bob"}),
		"no name":             signed(t, jwt.SigningMethodES256, good, "k1", jwt.MapClaims{"name": "alice"}),
		"another spelling":    spellings(token)[1],
		"two tokens":          token + ", Bearer " + token,
	} {
		if got := decide(forged); got != Blacklisted {
			t.Errorf("%s: %v", what, got)
		}
	}
	first := signed(t, jwt.SigningMethodES256, good, "", jwt.MapClaims{"sub": []string{"alice", "bob"}})
	if got := decide(first); got != PassWhitelisted {
		t.Errorf("the first of a list, and no key id: %v", got)
	}
	// Whoever may be blocked need not be verified.
	s.Use(snapshot(t, black(lists.KindUsername, "", "alice")), nil, true)
	if got := decide(signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", alice)); got != Blacklisted {
		t.Errorf("a blacklisted user in a forged token: %v", got)
	}
}

// TestKeysFile: PEM and sets in files; definitions that are replaced keep their keys.
func TestKeysFile(t *testing.T) {
	ec := ecKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	toPEM := func(k crypto.PublicKey) string {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	shared := []byte("0123456789abcdef0123456789abcdef")
	enc := base64.RawURLEncoding.EncodeToString
	for name, c := range map[string]struct {
		text   string
		method jwt.SigningMethod
		key    any
	}{
		"PEM, ECDSA":   {toPEM(&ec.PublicKey), jwt.SigningMethodES256, ec},
		"PEM, RSA":     {toPEM(&ec.PublicKey) + toPEM(&rsaKey.PublicKey), jwt.SigningMethodRS256, rsaKey},
		"PEM, RSA-PSS": {toPEM(&rsaKey.PublicKey), jwt.SigningMethodPS512, rsaKey},
		"PEM, Ed25519": {toPEM(edPublic), jwt.SigningMethodEdDSA, edPrivate},
		"set, RSA": {keySet(fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQAB","alg":"RS384"}`, enc(rsaKey.N.Bytes()))),
			jwt.SigningMethodRS384, rsaKey},
		"set, Ed25519": {keySet(fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":%q}`, enc(edPublic))), jwt.SigningMethodEdDSA, edPrivate},
		"set, shared":  {keySet(fmt.Sprintf(`{"kty":"oct","k":%q}`, enc(shared))), jwt.SigningMethodHS256, shared},
	} {
		file := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		api := root()
		api.JWT.KeysFile = file
		s := newShim(t, l7, []*apis.API{api}, white(lists.KindUsername, "", "alice"))
		run(t, s)
		r := get("/", "Authorization: Bearer "+signed(t, c.method, c.key, "", jwt.MapClaims{"sub": "alice"}))
		eventually(t, name, func() bool { return s.Decide(r).Reason == PassWhitelisted })
		again := root()
		again.JWT.KeysFile = file
		s.UseAPIs(apis.NewSet(again))
		if d := s.Decide(r); d.Reason != PassWhitelisted {
			t.Errorf("%s: after UseAPIs: %v", name, d.Reason)
		}
	}
	small := fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQAB"}`, enc(rsaKey.N.Bytes()[:128]))
	for text, want := range map[string]string{
		"":                      "expected PEM public keys or a JSON web key set",
		"{":                     "read a JSON web key set",
		`{"keys":[]}`:           "with keys for signatures",
		keySet(small):           "less than 2048 bits",
		keySet(`{"kty":"RSA"}`): "less than 2048 bits",
		keySet(`{"kty":"EC"}`):  `curve ""`,
		keySet(`{"kty":"x"}`):   `type "x"`,
		keySet(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`):                                    "a coordinate",
		keySet(fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%[1]q}`, enc(make([]byte, 32)))): "no usable public key",
		keySet(fmt.Sprintf(`{"kty":"oct","k":%q}`, enc(shared))):                                  "with keys for signatures",
		keySet(strings.Replace(ecJWK("a", &ec.PublicKey), `"use"`, `"alg":"RS256","use"`, 1)):     "alg",
		keySet(strings.Replace(ecJWK("a", &ec.PublicKey), `"sig"`, `"enc"`, 1)):                   "with keys for signatures",
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n":                          "PRIVATE KEY",
	} {
		if _, err := parseKeys([]byte(text), false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestKeysURL: keys are asked for over https or from this host only, and bounded.
func TestKeysURL(t *testing.T) {
	client := keysClient()
	long := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, maxKeyBytes+1))
	}))
	defer long.Close()
	away := httptest.NewServer(http.RedirectHandler("http://192.0.2.1/keys", http.StatusFound))
	defer away.Close()
	for address, want := range map[string]string{
		"http://192.0.2.1/": "over https only", "file:///etc/passwd": "over https only", ":": "missing protocol",
		long.URL: "more than", long.URL[:len(long.URL)-5] + "1": "connect", away.URL: "over https only",
	} {
		if _, err := fetchKeys(context.Background(), client, address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}
