package management

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestSelfSignedAtOnce: whoever of several is first, certificate and key fit, and nobody else can read the key.
func TestSelfSignedAtOnce(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	for range 20 {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if err := SelfSigned(cert, key, []string{"gw.example"}); err != nil {
					t.Error(err)
				}
				if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("key: %v, %v", info, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Fatalf("beside them are %v, %v", left, err)
		}
		if os.Remove(cert) != nil || os.Remove(key) != nil {
			t.Fatal("cannot remove them")
		}
	}
}

// TestSelfSignedKey: a key that is there is kept, and one that is none is said and left.
func TestSelfSignedKey(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	if err := SelfSigned(cert, key, nil); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(key)
	if err != nil || os.Remove(cert) != nil {
		t.Fatal(err)
	}
	if err := SelfSigned(cert, key, nil); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(key); err != nil || string(again) != string(first) {
		t.Errorf("the key was made anew, %v", err)
	}
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
		t.Error(err)
	}
	if os.Remove(cert) != nil || os.WriteFile(key, []byte("none"), 0o600) != nil {
		t.Fatal("cannot make a key that is none")
	}
	if err := SelfSigned(cert, key, nil); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("with a key that is none: %v", err)
	}
	if text, err := os.ReadFile(key); err != nil || string(text) != "none" {
		t.Errorf("the key that is none became %q, %v", text, err)
	}
}
