package sideband

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func openTokens(t *testing.T, dir string) *Tokens {
	t.Helper()
	tokens, err := OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestTokens(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1_700_000_000, 5)
	tokens := openTokens(t, dir)
	made, err := tokens.Create(now)
	if err != nil || !isToken(made) || !tokens.Valid(made) {
		t.Fatalf("made %q: %v, valid %v", made, err, tokens.Valid(made))
	}
	other := strings.Repeat("a1", 16)
	for range 2 {
		if err := tokens.Import(other, now); err != nil {
			t.Fatal(err)
		}
	}
	again := openTokens(t, dir)
	if got := again.List(); len(got) != 2 || got[0].Token != made || got[1] != (Token{other, now.UTC().Truncate(time.Second)}) {
		t.Errorf("after a restart: %v", got)
	}
	if err := again.Delete(made); err != nil || again.Valid(made) || !again.Valid(other) {
		t.Errorf("delete: %v, valid %v, the other %v", err, again.Valid(made), again.Valid(other))
	}
	if err := again.Delete(made); !errors.Is(err, ErrTokenLost) {
		t.Errorf("delete again: %v", err)
	}
	for _, bad := range []string{"", "x", strings.Repeat("A", 32), strings.Repeat("a", 33), strings.Repeat("a", 31) + "|"} {
		if err := again.Import(bad, now); !errors.Is(err, ErrToken) {
			t.Errorf("import %q: %v", bad, err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, tokensFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v, want mode 0600", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, tokensFile+".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestBrokenTokens: nobody gets in by a file that cannot be read, and nothing is written over it.
func TestBrokenTokens(t *testing.T) {
	for _, text := range []string{"{", `[{"token":"x"}]`, `[{"tocken":"x"}]`} {
		dir := t.TempDir()
		path := filepath.Join(dir, tokensFile)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tokens, err := OpenTokens(dir)
		if err == nil || tokens.Valid("x") || len(tokens.List()) != 0 {
			t.Errorf("%s: error %v, tokens %v", text, err, tokens.List())
		}
		if _, err := tokens.Create(time.Now()); err == nil {
			t.Errorf("%s: a token is made", text)
		}
		if kept, _ := os.ReadFile(path); string(kept) != text {
			t.Errorf("%s: now %s", text, kept)
		}
		if err := tokens.Keep(); err == nil {
			t.Errorf("%s: is read", text)
		}
		// Once it is mended it is read; if it is removed it is written again.
		good := strings.Repeat("a1", 16)
		if err := os.WriteFile(path, []byte(`[{"token":"`+good+`","created":"2026-01-02T03:04:05Z"}]`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := tokens.Keep(); err != nil || !tokens.Valid(good) {
			t.Errorf("mended: %v, valid %v", err, tokens.Valid(good))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := tokens.Keep(); err != nil || !openTokens(t, dir).Valid(good) {
			t.Errorf("removed: %v", err)
		}
	}
}

func TestTokensSideBySide(t *testing.T) {
	dir := t.TempDir()
	tokens := openTokens(t, dir)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			made, err := tokens.Create(time.Now())
			if err != nil || !tokens.Valid(made) {
				t.Errorf("%q: %v", made, err)
			}
		})
	}
	all.Wait()
	if got := openTokens(t, dir).List(); len(got) != 20 {
		t.Errorf("%d on disk, want 20", len(got))
	}
}
