package userspace

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSampleConfiguration: deploy/portcullis.toml loads as it is and with every comment that is a setting taken out of
// comment, and every key there is stands in it, with a comment above it or behind it.
func TestSampleConfiguration(t *testing.T) {
	const sample = "../deploy/portcullis.toml"
	if _, err := LoadConfig(sample); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^# (\[[a-z_.]+\].*|[a-z0-9_]+ = .*)$`).ReplaceAll(text, []byte("$1"))
	path := filepath.Join(t.TempDir(), "all.toml")
	if err := os.WriteFile(path, all, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.fronts()) != len(c.allFronts()) {
		t.Errorf("with everything on, %d of %d fronts are wanted", len(c.fronts()), len(c.allFronts()))
	}
	var shown []string
	section := ""
	for _, line := range strings.Split(string(all), "\n") {
		if m := regexp.MustCompile(`^\[([a-z_.]+)\]`).FindStringSubmatch(line); m != nil {
			section = m[1] + "."
		} else if m := regexp.MustCompile(`^([a-z0-9_]+) = `).FindStringSubmatch(line); m != nil {
			shown = append(shown, section+m[1])
		}
	}
	if want := keysOf(reflect.TypeFor[Config](), ""); !slices.Equal(slices.Sorted(slices.Values(shown)), want) {
		for _, key := range want {
			if !slices.Contains(shown, key) {
				t.Errorf("%s has no %s", sample, key)
			}
		}
		t.Errorf("%s has %q", sample, shown)
	}
}

// keysOf lists the keys of a configuration, sorted. Lists of tables are one key.
func keysOf(t reflect.Type, prefix string) (all []string) {
	for f := range t.Fields() {
		name, ok := f.Tag.Lookup("toml")
		switch {
		case f.Anonymous:
			all = append(all, keysOf(f.Type, prefix)...)
		case !ok || name == "-":
		case f.Type.Kind() == reflect.Struct:
			all = append(all, keysOf(f.Type, prefix+name+".")...)
		default:
			all = append(all, prefix+name)
		}
	}
	slices.Sort(all)
	return all
}
