package shim

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/portcullis/portcullis/lists"
)

// Bounds of keys and of what they verify.
const (
	maxKeyBytes    = 1 << 20
	maxKeys        = 100
	maxTried       = 4               // keys for one token: a check takes tens of microseconds, and anybody can send tokens
	keysAtOnce     = 64              // files and URLs that are read side by side
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
	ringID
	keys    atomic.Pointer[keys] // nil: none yet, and no token verifies
	seen    *memory              // tokens: good ones by the key's number, bad ones by the generation
	unknown atomic.Bool          // a token named a key that is not there
	failure atomic.Value         // string: why the last reading failed, "" if it did not
	reading atomic.Bool          // who sets it owns what follows
	due     time.Time            // of the next reading
	read    time.Time
	numbers uint32 // the last that a key was given
}

// ringID is what a keyring is for.
type ringID struct{ file, url, issuer, audience string }

// keys are what one reading found. Immutable.
type keys struct {
	all        []verifyKey
	generation uint32 // grows when keys change
}

// verifyKey is one key with the algorithms that it is for: those of its type, never one that a token asks for.
type verifyKey struct {
	id         string
	algorithms []string
	key        any
	number     uint32 // of this key in its ring, kept while it stays the same
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
	if by, ok := k.seen.knows(good, w.now); ok && ks.has(by) {
		return true
	}
	bad := w.summer.sum(secret, key{kind: lists.KindToken, form: formForged, value: token})
	if by, ok := k.seen.knows(bad, w.now); ok && by == ks.generation {
		return false
	}
	by, until, ok := k.check(ks, token, w.now)
	if ok {
		k.seen.remember(good, min(until, w.now+keepVerified), by)
	} else {
		k.seen.remember(bad, w.now+keepForged, ks.generation)
	}
	return ok
}

func (ks *keys) has(number uint32) bool {
	return slices.ContainsFunc(ks.all, func(k verifyKey) bool { return k.number == number })
}

var (
	errUnknownKey = errors.New("no key for this token")
	allAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"}
)

// check verifies a token; by is the number of the key that did, until when the token ends.
func (k *keyring) check(ks *keys, text string, now int64) (by uint32, until int64, ok bool) {
	options := []jwt.ParserOption{jwt.WithValidMethods(allAlgorithms), jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return time.Unix(now, 0) })}
	if k.issuer != "" {
		options = append(options, jwt.WithIssuer(k.issuer))
	}
	if k.audience != "" {
		options = append(options, jwt.WithAudience(k.audience))
	}
	parser := jwt.NewParser(options...)
	var fit []verifyKey
	for i := 0; i == 0 || i < len(fit); i++ {
		token, err := parser.Parse(text, func(t *jwt.Token) (any, error) {
			if _, critical := t.Header["crit"]; critical {
				return nil, errUnknownKey // extensions that we do not know
			}
			id, _ := t.Header["kid"].(string)
			if fit = ks.choose(id, t.Method.Alg()); len(fit) == 0 {
				return nil, errUnknownKey
			}
			return fit[i].key, nil
		})
		switch {
		case errors.Is(err, errUnknownKey):
			k.unknown.Store(true)
			return 0, 0, false
		case errors.Is(err, jwt.ErrTokenSignatureInvalid):
			continue
		case err != nil || !token.Valid:
			return 0, 0, false
		}
		until = now + keepVerified
		if end, err := token.Claims.GetExpirationTime(); err == nil && end != nil {
			until = end.Unix()
		}
		return fit[i].number, until, true
	}
	return 0, 0, false
}

// choose returns the keys for that algorithm with the token's key id, or where either says none, all; of those the first
// maxTried, since whoever forges a token chooses what is in it.
func (ks *keys) choose(id, algorithm string) (fit []verifyKey) {
	for _, k := range ks.all {
		if (id == "" || k.id == "" || k.id == id) && slices.Contains(k.algorithms, algorithm) && len(fit) < maxTried {
			fit = append(fit, k)
		}
	}
	return fit
}

// keepKeys reads keys when they are due until ctx ends, side by side: one who does not answer holds up no other.
func (s *Shim) keepKeys(ctx context.Context) {
	tick := time.NewTicker(keysLookAround)
	defer tick.Stop()
	client := keysClient()
	defer client.CloseIdleConnections()
	var readers sync.WaitGroup
	defer readers.Wait()
	free := make(chan struct{}, keysAtOnce)
	for {
		for _, k := range s.rings.all() {
			if !k.reading.CompareAndSwap(false, true) {
				continue
			}
			if !k.wantsReading(time.Now()) || len(free) == cap(free) {
				k.reading.Store(false)
				continue
			}
			free <- struct{}{}
			readers.Go(func() {
				s.readKeys(ctx, client, k)
				k.reading.Store(false)
				<-free
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.rings.changed:
		}
	}
}

// wantsReading reports whether it is time to.
func (k *keyring) wantsReading(now time.Time) bool {
	return !now.Before(k.due) || k.unknown.Load() && now.Sub(k.read) > keysUnknown
}

// readKeys reads the keys of a ring. Those that were read before stay if that fails.
func (s *Shim) readKeys(ctx context.Context, client *http.Client, k *keyring) {
	now := time.Now()
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
	k.use(all)
}

// use puts keys in force. What was verified by those that stay is not verified again.
func (k *keyring) use(all []verifyKey) {
	old := k.keys.Load()
	if old == nil {
		old = &keys{}
	}
	same := len(all) == len(old.all)
	for i := range all {
		at := slices.IndexFunc(old.all, all[i].equal)
		if same = same && at == i; at >= 0 {
			all[i].number = old.all[at].number
			continue
		}
		k.numbers++
		all[i].number = k.numbers
	}
	if !same {
		k.keys.Store(&keys{all: all, generation: old.generation + 1})
	}
}

// equal reports whether o verifies what k does.
func (k verifyKey) equal(o verifyKey) bool {
	if k.id != o.id || !slices.Equal(k.algorithms, o.algorithms) {
		return false
	}
	if shared, ok := k.key.([]byte); ok {
		other, ok := o.key.([]byte)
		return ok && bytes.Equal(shared, other)
	}
	public, ok := k.key.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(o.key)
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
	return slices.Compact(all)
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
