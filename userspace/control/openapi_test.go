package control_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

var update = flag.Bool("update", false, "write docs/openapi.json anew")

// TestOpenAPIDocument holds docs/openapi.json to what the server serves:
// go test ./userspace/control -run OpenAPI -update
func TestOpenAPIDocument(t *testing.T) {
	s, err := control.New(control.Options{Backend: controltest.NewBackend(), StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "docs", "openapi.json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Fatalf("%s is not what the server serves: go test ./userspace/control -run OpenAPI -update", path)
	}
}
