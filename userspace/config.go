package userspace

import "context"
import "log/slog"

// Config is what `portcullis serve` is told, by flags, environment and a TOML file (--config). Flags win over
// environment, environment over file, file over the defaults of [DefaultConfig].
type Config struct {
	Interfaces []string `toml:"interfaces"`
	Mode       string   `toml:"mode"` // native, generic, native-then-generic
	StateDir   string   `toml:"state_dir"`
	Socket     string   `toml:"socket"`
	PinDir     string   `toml:"pin_dir"`
	LogLevel   string   `toml:"log_level"`

	// Protected addresses and prefixes are never dropped, besides those found on the host itself.
	Protected      []string `toml:"protected"`
	TrustedProxies []string `toml:"trusted_proxies"`
	// Capacity bounds the IP prefixes of each family that the kernel maps take.
	Capacity uint32 `toml:"capacity"`
}

// DefaultConfig is a daemon without interfaces on the standard paths.
func DefaultConfig() Config {
	return Config{
		Mode:     "native-then-generic",
		StateDir: "/var/lib/portcullis",
		Socket:   "/run/portcullis/portcullis.sock",
		PinDir:   "/sys/fs/bpf/portcullis",
	}
}

// LoadConfig reads a TOML file over the defaults. Unknown keys, wrong types and values that make no sense are
// errors that name file, line and key.
func LoadConfig(path string) (Config, error) { panic("contract") }

// Run is the daemon: it opens store and loader, attaches, enforces, and serves the control API until ctx ends.
// Ending is not detaching: the kernel goes on enforcing. ready is called once enforcement and API are up.
func Run(ctx context.Context, c Config, version string, log *slog.Logger, ready func()) error {
	panic("contract")
}
