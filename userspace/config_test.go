package userspace

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLoadConfig is one table of files, which is why it is long.
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
		{name: "exact", text: `accounting = "exact"`, want: func(c *Config) { c.Accounting = "exact" }},
		{name: "bad accounting", text: `accounting = "all"`, wantErr: `accounting: "all" is not one of sampled, exact`},
		{name: "bad protected", text: `protected = ["1.2.3"]`, wantErr: `protected: "1.2.3" is not an IP address or CIDR`},
		{name: "bad proxy", text: `trusted_proxies = ["fe80::1%eth0"]`, wantErr: "trusted_proxies"},
		{name: "relative", text: `state_dir = "here"`, wantErr: `state_dir: "here" is not an absolute path`},
		{name: "key", text: `key_file = "/etc/portcullis/lists.key"`, want: func(c *Config) { c.KeyFile = "/etc/portcullis/lists.key" }},
		{name: "relative key", text: `key_file = "lists.key"`, wantErr: `key_file: "lists.key" is not an absolute path`},
		{name: "no room for identifiers", text: `identifier_capacity = 0`, wantErr: "identifier_capacity"},
		{name: "no room", text: `capacity = 0`, wantErr: "capacity"},
		{name: "negative", text: `capacity = -1`, wantErr: "line 1"},
		{name: "level", text: `log_level = "loud"`, wantErr: "log_level"},
		{name: "interface path", text: `interfaces = ["../x"]`, wantErr: "interfaces"},
		{name: "l7", text: "ip_enforcement = \"l7\"\nwhitelist_scope = \"identifier\"\n[check]\nlisten = \"127.0.0.1:1\"\n", want: func(c *Config) {
			c.IPEnforcement, c.WhitelistScope, c.CheckEndpoint.Listen = "l7", "identifier", "127.0.0.1:1"
		}},
		{name: "l7 of nobody", text: `ip_enforcement = "both"`, wantErr: `ip_enforcement: "both" without a way for requests to be judged`},
		{name: "enforcement", text: `ip_enforcement = "layer7"`, wantErr: `ip_enforcement: "layer7" is not one of kernel, l7, both`},
		{name: "scope", text: `whitelist_scope = "all"`, wantErr: `whitelist_scope: "all" is not one of request, identifier`},
		{name: "front key", text: "[check]\nlissen = \"x\"\n", wantErr: `line 2: unknown key "check.lissen"`},
		{name: "front address", text: "[check]\nlisten = \"8080\"\n", wantErr: `check.listen: "8080" is no address and port to listen at`},
		{name: "front port", text: "[check]\nlisten = \"127.0.0.1:http\"\n", wantErr: `check.listen: "127.0.0.1:http" is no address`},
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
