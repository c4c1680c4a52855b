package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/portcullis/portcullis/lists"
)

// Bounds of keys and of what they verify.
const (
	maxKeyBytes    = 1 << 20
	maxKeys        = 100
	maxVerified    = 8 << 10         // tokens that are remembered, good and bad ones together
	maxVerify      = 16 << 10        // bytes of a token
	keepVerified   = 300             // seconds
	keepForged     = 30              // seconds
	keysEvery      = 5 * time.Minute // how often keys are read anew
	keysRetry      = 10 * time.Second
	keysUnknown    = 30 * time.Second // least time between two readings because a token names an unknown key
	keysTimeout    = 10 * time.Second
	keysRedirects  = 3
	keysLookAround = time.Second
)

// keyring holds the keys that verify the tokens of an API: read from a file or a URL in the background, never while a
// request waits.
type keyring struct {
	file, url string
	keys      atomic.Pointer[keys] // nil: none yet, and no token verifies
	unknown   atomic.Bool          // a token named a key that is not there
	failure   atomic.Value         // string: why the last reading failed, "" if it did not
	due       time.Time            // of the next reading; only Run looks at it
	read      time.Time
}

// keys are one reading.
type keys struct {
	all  []verifyKey
	seen *memory
}

// verifyKey is one key with the algorithms that it is for: those of its type, never one that a token asks for.
type verifyKey struct {
	id         string
	algorithms []string
	key        any
}

// verify reports whether one of the keys verifies the token and it has not ended. Its answers are remembered for a
// while.
func (k *keyring) verify(w *work, token string) bool {
	if k == nil || len(token) > maxVerify {
		return false
	}
	ks := k.keys.Load()
	if ks == nil {
		return false
	}
	secret := w.index.secret
	good := w.summer.sum(secret, key{kind: lists.KindToken, form: formVerified, value: token})
	if ks.seen.knows(good, w.now) {
		return true
	}
	bad := w.summer.sum(secret, key{kind: lists.KindToken, form: formForged, value: token})
	if ks.seen.knows(bad, w.now) {
		return false
	}
	until, ok := ks.check(token, w.now, &k.unknown)
	if ok {
		ks.seen.remember(good, min(until, w.now+keepVerified))
	} else {
		ks.seen.remember(bad, w.now+keepForged)
	}
	return ok
}

var (
	errUnknownKey = errors.New("no key for this token")
	allAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"}
)

// check verifies a token; until is when it ends.
func (ks *keys) check(text string, now int64, unknown *atomic.Bool) (until int64, ok bool) {
	parser := jwt.NewParser(jwt.WithValidMethods(allAlgorithms), jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return time.Unix(now, 0) }))
	token, err := parser.Parse(text, func(t *jwt.Token) (any, error) {
		if _, critical := t.Header["crit"]; critical {
			return nil, errUnknownKey // extensions that we do not know
		}
		id, _ := t.Header["kid"].(string)
		return ks.choose(id, t.Method.Alg())
	})
	if errors.Is(err, errUnknownKey) {
		unknown.Store(true)
	}
	if err != nil || !token.Valid {
		return 0, false
	}
	until = now + keepVerified
	if end, err := token.Claims.GetExpirationTime(); err == nil && end != nil {
		until = end.Unix()
	}
	return until, true
}

// choose returns the keys for that algorithm: those with the token's key id, all if it has none.
func (ks *keys) choose(id, algorithm string) (any, error) {
	var set jwt.VerificationKeySet
	for _, k := range ks.all {
		if id != "" && k.id != "" && k.id != id {
			continue
		}
		for _, a := range k.algorithms {
			if a == algorithm {
				set.Keys = append(set.Keys, k.key)
			}
		}
	}
	if len(set.Keys) == 0 {
		return nil, errUnknownKey
	}
	return set, nil
}

// keepKeys reads keys when they are due until ctx ends.
func (s *Shim) keepKeys(ctx context.Context) {
	tick := time.NewTicker(keysLookAround)
	defer tick.Stop()
	client := keysClient()
	defer client.CloseIdleConnections()
	for {
		for _, k := range s.rings.all() {
			s.readKeys(ctx, client, k)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.rings.changed:
		}
	}
}

// readKeys reads the keys of a ring if it is time to. Keys that were read before stay if that fails.
func (s *Shim) readKeys(ctx context.Context, client *http.Client, k *keyring) {
	now := time.Now()
	early := k.unknown.Load() && now.Sub(k.read) > keysUnknown
	if now.Before(k.due) && !early {
		return
	}
	k.unknown.Store(false)
	k.read, k.due = now, now.Add(keysEvery)
	all, err := k.fetch(ctx, client)
	if err != nil {
		if k.due = now.Add(keysRetry); ctx.Err() == nil {
			s.options.Logger.Warn("cannot read the keys that verify tokens; they verify with the keys read before, if any",
				"keys_file", k.file, "jwks_url", k.url, "error", err)
			k.failure.Store(err.Error())
		}
		return
	}
	k.failure.Store("")
	k.keys.Store(&keys{all: all, seen: newMemory(maxVerified)})
}

// Problems says what is wrong with the keys that verify tokens, one line each: until it is mended, tokens are verified
// with the keys that were read before, or not at all.
func (s *Shim) Problems() (all []string) {
	for _, k := range s.rings.all() {
		if why, _ := k.failure.Load().(string); why != "" {
			all = append(all, "cannot read the keys that verify tokens: "+why)
		}
	}
	slices.Sort(all)
	return all
}

func (k *keyring) fetch(ctx context.Context, client *http.Client) (all []verifyKey, err error) {
	if k.file != "" {
		text, err := readBounded(os.Open(k.file))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", k.file, err)
		}
		if all, err = parseKeys(text, true); err != nil {
			return nil, fmt.Errorf("read %s: %w", k.file, err)
		}
	}
	if k.url != "" {
		text, err := fetchKeys(ctx, client, k.url)
		if err != nil {
			return nil, fmt.Errorf("get %s: %w", k.url, err)
		}
		more, err := parseKeys(text, false)
		if err != nil {
			return nil, fmt.Errorf("get %s: %w", k.url, err)
		}
		all = append(all, more...)
	}
	return all, nil
}

func readBounded(f io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyBytes+1))
	if err == nil && len(text) > maxKeyBytes {
		err = fmt.Errorf("more than %d bytes", maxKeyBytes)
	}
	return text, err
}

// keysClient gets keys: over https or from this host, in bounded time.
func keysClient() *http.Client {
	return &http.Client{
		Timeout: keysTimeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: keysTimeout,
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 4, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > keysRedirects {
				return errors.New("too many redirects")
			}
			return checkKeysURL(r.URL)
		},
	}
}

// checkKeysURL refuses a URL whose answer anybody on the way could write.
func checkKeysURL(u *url.URL) error {
	host := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || host != nil && host.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("keys are taken over https only, not from %s", lists.Quote(u.Redacted()))
}

func fetchKeys(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if err := checkKeysURL(u); err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("status %s", answer.Status)
	}
	return readBounded(answer.Body, nil)
}
