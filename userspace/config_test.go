package userspace

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLoadConfig(t *testing.T) {
	def := DefaultConfig()
	tests := []struct {
		name, text string
		want       func(*Config)
		wantErr    string // part of the message
	}{
		{name: "empty", text: "", want: func(*Config) {}},
		{name: "all", text: `
interfaces = ["eth0", "wg0"]
mode = "native"
state_dir = "/s"
socket = "/r/p.sock"
pin_dir = "/sys/fs/bpf/x"
log_level = "debug"
protected = ["192.0.2.1", "2001:db8::/32"]
trusted_proxies = ["198.51.100.0/24"]
capacity = 1000
`, want: func(c *Config) {
			c.Interfaces, c.Mode, c.StateDir, c.Socket = []string{"eth0", "wg0"}, "native", "/s", "/r/p.sock"
			c.PinDir, c.LogLevel, c.Capacity = "/sys/fs/bpf/x", "debug", 1000
			c.Protected, c.TrustedProxies = []string{"192.0.2.1", "2001:db8::/32"}, []string{"198.51.100.0/24"}
		}},
		{name: "unknown key", text: "mode = \"native\"\nmod = \"x\"\n", wantErr: `line 2: unknown key "mod"`},
		{name: "wrong type", text: "\ncapacity = \"many\"\n", wantErr: "line 2"},
		{name: "syntax", text: "mode = \n", wantErr: "line 1"},
		{name: "bad mode", text: `mode = "fast"`, wantErr: `mode: "fast" is not one of native, generic, native-then-generic`},
		{name: "bad lookup", text: `lookup = "fast"`, wantErr: `lookup: "fast" is not one of indexed, lpm`},
		{name: "bad protected", text: `protected = ["1.2.3"]`, wantErr: `protected: "1.2.3" is not an IP address or CIDR`},
		{name: "bad proxy", text: `trusted_proxies = ["fe80::1%eth0"]`, wantErr: "trusted_proxies"},
		{name: "relative", text: `state_dir = "here"`, wantErr: `state_dir: "here" is not an absolute path`},
		{name: "no room", text: `capacity = 0`, wantErr: "capacity"},
		{name: "negative", text: `capacity = -1`, wantErr: "line 1"},
		{name: "level", text: `log_level = "loud"`, wantErr: "log_level"},
		{name: "interface path", text: `interfaces = ["../x"]`, wantErr: "interfaces"},
		{name: "interface twice", text: `interfaces = ["a", "a"]`, wantErr: "named twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "portcullis.toml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := LoadConfig(path)
			if tt.wantErr != "" {
				if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.wantErr) || !strings.Contains(err.Error(), path) {
					t.Fatalf("error %v; want ErrConfig naming the file and %q", err, tt.wantErr)
				}
				if strings.Contains(err.Error(), "\n") {
					t.Fatalf("error has more than one line: %q", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := def
			tt.want(&want)
			if d := cmp.Diff(want, got); d != "" {
				t.Fatal(d)
			}
		})
	}
	if _, err := LoadConfig("/nonexistent/p.toml"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
}
