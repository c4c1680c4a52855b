package sideband

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/portcullis/portcullis/userspace/durable"
)

// Errors of [Tokens]; test with errors.Is.
var (
	ErrToken     = errors.New("a sideband token is 32 characters of a-z and 0-9")
	ErrTokenLost = errors.New("no such sideband token")
	ErrTooMany   = errors.New("too many sideband tokens")
)

// MaxTokens bounds how many there are.
const MaxTokens = 1000

const (
	tokensFile   = "sideband_tokens.json"
	tokenLength  = 32
	tokenLetters = "abcdefghijklmnopqrstuvwxyz0123456789"
)

// Token is what a gateway shows in ASE-Token.
type Token struct {
	Token   string    `json:"token"`
	Created time.Time `json:"created"`
}

// Tokens are the sideband tokens of a node, kept in a file of the state directory (mode 0600, replaced whole and
// durably). Safe for concurrent use; what is changed is in force and on disk when the call returns.
type Tokens struct {
	path   string
	mu     sync.Mutex // held by changes
	all    []Token
	unread error // why the file could not be read
	// valid holds hashes, so that how long a look-up takes says nothing of the tokens.
	valid atomic.Pointer[map[[sha256.Size]byte]struct{}]
}

// OpenTokens reads the tokens of a state directory; a file that is not there is none. After an error nobody has a valid
// token, and changes are refused, until [Tokens.Keep] can read it: Tokens is usable.
func OpenTokens(dir string) (*Tokens, error) {
	t := &Tokens{path: filepath.Join(dir, tokensFile), unread: errors.New("not read yet")}
	t.publish()
	return t, t.Keep()
}

// Keep reads the file if that has not succeeded yet, and writes it again if it was removed.
func (t *Tokens) Keep() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unread == nil {
		if _, err := os.Lstat(t.path); len(t.all) == 0 || !errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err := t.write(t.all); err != nil {
			return fmt.Errorf("write removed sideband tokens again: %w", err)
		}
		return nil
	}
	f, err := os.OpenFile(t.path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err == nil {
		err = t.read(f)
	}
	if t.unread = err; err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no sideband token is valid: read them: %w", err)
	}
	t.unread = nil
	t.publish()
	return nil
}

func (t *Tokens) read(f *os.File) error {
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&t.all); err != nil {
		t.all = nil
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	for i, one := range t.all {
		if !isToken(one.Token) {
			t.all = nil
			return fmt.Errorf("%s: token %d: %w", f.Name(), i+1, ErrToken)
		}
	}
	return nil
}

// publish puts t.all in force.
func (t *Tokens) publish() {
	valid := make(map[[sha256.Size]byte]struct{}, len(t.all))
	for _, one := range t.all {
		valid[sha256.Sum256([]byte(one.Token))] = struct{}{}
	}
	t.valid.Store(&valid)
}

// Valid reports whether a gateway may show this token.
func (t *Tokens) Valid(token string) bool {
	_, ok := (*t.valid.Load())[sha256.Sum256([]byte(token))]
	return ok
}

// List returns the tokens in the order they were made.
func (t *Tokens) List() []Token {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.all)
}

// Create makes a token.
func (t *Tokens) Create(now time.Time) (string, error) {
	var b strings.Builder
	for range tokenLength {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(tokenLetters))))
		if err != nil {
			return "", fmt.Errorf("make sideband token: %w", err)
		}
		b.WriteByte(tokenLetters[n.Int64()])
	}
	return b.String(), t.Import(b.String(), now)
}

// Import adds a token that another node made. One that is there already is no error.
func (t *Tokens) Import(token string, now time.Time) error {
	if !isToken(token) {
		return ErrToken
	}
	return t.change(func(all []Token) ([]Token, error) {
		if slices.ContainsFunc(all, func(o Token) bool { return o.Token == token }) {
			return all, nil
		}
		if len(all) >= MaxTokens {
			return nil, fmt.Errorf("%w: %d", ErrTooMany, len(all))
		}
		return append(all, Token{Token: token, Created: now.UTC().Truncate(time.Second)}), nil
	})
}

// Delete takes a token out of force.
func (t *Tokens) Delete(token string) error {
	return t.change(func(all []Token) ([]Token, error) {
		i := slices.IndexFunc(all, func(o Token) bool { return o.Token == token })
		if i < 0 {
			return nil, ErrTokenLost
		}
		return slices.Delete(all, i, i+1), nil
	})
}

func (t *Tokens) change(edit func([]Token) ([]Token, error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unread != nil {
		return fmt.Errorf("change sideband tokens: %w: mend or remove %s, which is read again every few seconds", t.unread, tokensFile)
	}
	next, err := edit(slices.Clone(t.all))
	if err != nil {
		return err
	}
	err = t.write(next)
	if err == nil || errors.Is(err, durable.ErrUnsynced) {
		t.all = next
		t.publish()
	}
	if err != nil {
		return fmt.Errorf("keep sideband tokens: %w", err)
	}
	return nil
}

func isToken(s string) bool { return len(s) == tokenLength && strings.Trim(s, tokenLetters) == "" }

func (t *Tokens) write(all []Token) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(t.path, append(text, '\n'), 0o600)
}
