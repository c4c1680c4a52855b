package userspace

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader"
)

// ErrConfig: a configuration says something that cannot be; the text names where and what is expected.
var ErrConfig = errors.New("bad configuration")

// Config is what `portcullis serve` is told, by flags, environment and a TOML file (--config). Flags win over
// environment, environment over file, file over the defaults of [DefaultConfig].
type Config struct {
	Interfaces []string `toml:"interfaces"`
	Mode       string   `toml:"mode"`       // native, generic, native-then-generic
	Lookup     string   `toml:"lookup"`     // indexed, lpm
	Accounting string   `toml:"accounting"` // sampled, exact
	StateDir   string   `toml:"state_dir"`
	Socket     string   `toml:"socket"`
	PinDir     string   `toml:"pin_dir"`
	KeyFile    string   `toml:"key_file"`  // seals secrets in the state directory; "": lists.key there
	LogLevel   string   `toml:"log_level"` // "": as stored by the log_level command

	// Protected addresses and prefixes are never dropped, besides those found on the host itself.
	Protected      []string `toml:"protected"`
	TrustedProxies []string `toml:"trusted_proxies"`
	// Capacity bounds the IP prefixes of each family that are listed, and that the kernel maps take.
	Capacity uint32 `toml:"capacity"`
	// IdentifierCapacity bounds the cookies, tokens, API keys and user names that are listed, together; a long one counts
	// once for each 512 bytes.
	IdentifierCapacity uint32 `toml:"identifier_capacity"`

	// IPEnforcement says who acts on listed addresses: kernel, l7 or both; "": everything there is.
	IPEnforcement string `toml:"ip_enforcement"`
	// WhitelistScope: a whitelisted identifier speaks for its whole "request" (""), or only for this "identifier".
	WhitelistScope string `toml:"whitelist_scope"`

	// The ways in which HTTP requests come to be judged, all off by default.
	Proxy         ProxyConfig      `toml:"proxy"`
	CheckEndpoint CheckConfig      `toml:"check"`
	ExtAuthz      ExtAuthzConfig   `toml:"ext_authz"`
	SPOE          SPOEConfig       `toml:"spoe"`
	Sideband      SidebandConfig   `toml:"sideband"`
	Detect        DetectConfig     `toml:"detect"`
	Management    ManagementConfig `toml:"management"`

	// Metrics is the host and port on which Prometheus may read; "": none.
	Metrics string `toml:"metrics"`

	// Progress, if set, is told how far the start is: what is being done, and of how many entries (0: not known) it is done.
	Progress func(what string, done, total int) `toml:"-"`
	// Restart, if set, keeps the proxy's sockets open beyond the end of [Run].
	Restart *Restart `toml:"-"`

	// Level, if set, follows the log_level command.
	Level *slog.LevelVar `toml:"-"`
}

// DefaultConfig is a daemon without interfaces on the standard paths.
func DefaultConfig() Config {
	return Config{
		Mode:       string(loader.ModeNativeThenGeneric),
		Lookup:     string(loader.LookupIndexed),
		Accounting: string(loader.AccountingSampled),
		StateDir:   "/var/lib/portcullis",
		Socket:     "/run/portcullis/portcullis.sock",
		PinDir:     "/sys/fs/bpf/portcullis",
		Capacity:   16 << 20,

		IdentifierCapacity: 1 << 20,
	}
}

// LoadConfig reads a TOML file over the defaults. Unknown keys, wrong types and values that make no sense are
// errors ([ErrConfig]) that name file, line and key.
func LoadConfig(path string) (Config, error) {
	c := DefaultConfig()
	text, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, fmt.Errorf("%w: %s: %s", ErrConfig, path, describeTOML(err))
	}
	if err := c.Check(); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// describeTOML names line, column and key of a decoding error on one line.
func describeTOML(err error) string {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		row, _ := e.Position()
		return fmt.Sprintf("line %d: unknown key %q", row, strings.Join(e.Key(), "."))
	}
	var dec *toml.DecodeError
	if errors.As(err, &dec) {
		row, col := dec.Position()
		key := ""
		if k := dec.Key(); len(k) > 0 {
			key = fmt.Sprintf("key %q: ", strings.Join(k, "."))
		}
		return fmt.Sprintf("line %d, column %d: %s%s", row, col, key, dec.Error())
	}
	return err.Error()
}

// Check says what makes no sense in the configuration; the error is [ErrConfig] and names the key.
func (c Config) Check() error {
	bad := func(key, format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrConfig, key, fmt.Sprintf(format, args...))
	}
	modes := []string{string(loader.ModeNative), string(loader.ModeGeneric), string(loader.ModeNativeThenGeneric)}
	if !slices.Contains(modes, c.Mode) {
		return bad("mode", "%q is not one of %s", c.Mode, strings.Join(modes, ", "))
	}
	if lookups := []string{string(loader.LookupIndexed), string(loader.LookupLPM)}; !slices.Contains(lookups, c.Lookup) {
		return bad("lookup", "%q is not one of %s", c.Lookup, strings.Join(lookups, ", "))
	}
	if all := []string{string(loader.AccountingSampled), string(loader.AccountingExact)}; !slices.Contains(all, c.Accounting) {
		return bad("accounting", "%q is not one of %s", c.Accounting, strings.Join(all, ", "))
	}
	for i, name := range c.Interfaces {
		if name == "" || len(name) > 15 || strings.ContainsAny(name, "/ \t\n\x00") || name == "." || name == ".." {
			return bad("interfaces", "%q is not the name of a network interface", name)
		}
		if slices.Contains(c.Interfaces[:i], name) {
			return bad("interfaces", "%q is named twice", name)
		}
	}
	for key, path := range map[string]string{"state_dir": c.StateDir, "socket": c.Socket, "pin_dir": c.PinDir} {
		if !filepath.IsAbs(path) {
			return bad(key, "%q is not an absolute path", path)
		}
	}
	if c.KeyFile != "" && !filepath.IsAbs(c.KeyFile) {
		return bad("key_file", "%q is not an absolute path", c.KeyFile)
	}
	if c.Capacity == 0 {
		return bad("capacity", "0 leaves no room for any address: give the number of IP entries, at most 4294967295")
	}
	if c.IdentifierCapacity == 0 {
		return bad("identifier_capacity", "0 leaves no room for any cookie, token, API key or user name: give their number, at most 4294967295")
	}
	if _, port, err := net.SplitHostPort(c.Metrics); c.Metrics != "" && (err != nil || port == "") {
		return bad("metrics", "%q is no host and port, such as 127.0.0.1:9101", c.Metrics)
	}
	if _, ok := parseLevel(c.LogLevel); c.LogLevel != "" && !ok {
		return bad("log_level", "%q is not one of debug, info, warn, error", c.LogLevel)
	}
	for key, list := range map[string][]string{"protected": c.Protected, "trusted_proxies": c.TrustedProxies} {
		for _, text := range list {
			if _, err := parsePrefix(text); err != nil {
				return bad(key, "%q is not an IP address or CIDR", text)
			}
		}
	}
	return c.checkL7(bad)
}

// parsePrefix reads an address or CIDR as an entry of the lists is read: unmapped and masked.
func parsePrefix(text string) (netip.Prefix, error) {
	id, _, err := lists.ParseID(lists.KindIP, "", text)
	if err != nil {
		return netip.Prefix{}, err
	}
	p, _ := id.Prefix()
	return p, nil
}

// hostPrefix is the prefix that covers one address, unmapped and without zone.
func hostPrefix(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen())
}

func parseLevel(text string) (slog.Level, bool) {
	var l slog.Level
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, text) {
		return l, false
	}
	return l, l.UnmarshalText([]byte(text)) == nil
}
