package apis

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func ids(all []*API) (found []string) {
	for _, a := range all {
		found = append(found, a.ID)
	}
	return found
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "apis")
	f, all, broken, err := OpenFiles(dir)
	if err != nil || !slices.Equal(ids(all), []string{"root"}) || len(broken) != 0 {
		t.Fatalf("new: %v, %v, %v", ids(all), broken, err)
	}
	shop, err := Parse("shop.json", shopJSON(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Save(shop), f.Save(shop), f.Remove("root"), f.Remove("nobody")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"bad.json": "{", "a.b.json": string(rootJSON), "zshop.json": string(shop.Raw), "shop.json.new": "half", "notes.txt": "x",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, all, broken, err = OpenFiles(dir)
	if err != nil || !slices.Equal(ids(all), []string{"shop"}) || string(all[0].Raw) != string(shop.Raw) {
		t.Fatalf("opened again: %v, %v", ids(all), err)
	}
	want := []struct {
		id, text string
		err      error
	}{
		{"a.b", "has a dot", ErrInvalid}, {"bad", "ends too early", ErrInvalid}, {"dir", "not a file", ErrInvalid},
		{"zshop", "shop has hostname shop.example.com and url /shop too", ErrExists},
	}
	if len(broken) != len(want) {
		t.Fatalf("broken: %v", broken)
	}
	for i, w := range want {
		if b := broken[i]; b.ID != w.id || !errors.Is(b.Err, w.err) || !strings.Contains(b.Err.Error(), w.text) {
			t.Errorf("broken: %v, want %v", b, w)
		}
	}
}

// TestFilesCannot: what cannot be written is an error, and leaves what was there.
func TestFilesCannot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "apis")
	f, _, _, err := OpenFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "shop.json", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Save(&API{ID: "shop", Raw: []byte("x")}); err == nil {
		t.Error("saved over a directory")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("in the directory are %v, %v", left, err)
	}
	if err := (Files{filepath.Join(dir, "gone")}).Save(&API{ID: "root", Raw: []byte("x")}); err == nil {
		t.Error("saved in a directory that is not there")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "root.json")); err != nil || string(text) != string(rootJSON) {
		t.Errorf("root.json is %q, %v", text, err)
	}
	if _, _, _, err := OpenFiles(filepath.Join(dir, "root.json")); err == nil {
		t.Error("opened a file as a directory")
	}
}
