package shim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
