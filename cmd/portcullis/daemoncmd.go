package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/term"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace"
)

func runServe(c *call) error {
	conf, err := c.config()
	if err != nil {
		return err
	}
	conf.Level = new(slog.LevelVar)
	if conf.LogLevel != "" {
		if err := conf.Level.UnmarshalText([]byte(conf.LogLevel)); err != nil {
			return &usageError{"--log-level: " + err.Error(), "one of " + wordList(logLevels)}
		}
	}
	out := &startup{log: c.err}
	if f, ok := c.err.(*os.File); ok {
		out.terminal = term.IsTerminal(int(f.Fd()))
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: conf.Level}))
	out.notify = func(state string) { notify(c.err, state) }
	conf.Progress = out.progress
	ctx, stop := signal.NotifyContext(c.ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var again restart
	conf.Restart = &again.Restart
	again.listen()
	context.AfterFunc(ctx, func() {
		stop() // a second signal ends us at once
		if !again.wanted.Load() {
			notify(c.err, daemon.SdNotifyStopping)
		}
	})
	err = userspace.Run(ctx, conf, buildVersion(), log, func() {
		out.ready()
		go again.await(ctx, stop, log, c.config)
	})
	if err == nil && again.wanted.Load() {
		return again.exec()
	}
	if errors.Is(err, userspace.ErrConfig) && !c.cli.IsSet("config") && len(conf.Interfaces) == 0 {
		return &usageError{err.Error(), "no configuration was read: give --config " + defaultConfigFile + ", as the systemd unit does"}
	}
	return err
}

// defaultConfigFile is where make install puts the configuration. serve reads it only if it is told to.
const defaultConfigFile = "/etc/portcullis/portcullis.toml"

// notify tells systemd, if it started us.
func notify(errs io.Writer, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		say(errs, "warning", fmt.Sprintf("systemd was not told %s: %v", lists.Quote(state), err))
	}
}

// config is what serve runs with: flags over environment over file over defaults.
func (c *call) config() (userspace.Config, error) {
	conf := userspace.DefaultConfig()
	if file := c.cli.String("config"); file != "" {
		var err error
		if conf, err = userspace.LoadConfig(file); err != nil {
			return conf, err
		}
	}
	for name, field := range map[string]*string{
		"mode": &conf.Mode, "state-dir": &conf.StateDir, "socket": &conf.Socket, "pin-dir": &conf.PinDir, "log-level": &conf.LogLevel, "metrics": &conf.Metrics,
	} {
		if v := c.cli.String(name); v != "" {
			*field = v
		}
	}
	if c.cli.IsSet("interface") {
		conf.Interfaces = c.list("interface")
	}
	return conf, nil
}

// pinDir is where detach and bypass look.
func (c *call) pinDir() string {
	if dir := c.cli.String("pin-dir"); dir != "" {
		return dir
	}
	return userspace.DefaultConfig().PinDir
}

func runDetach(c *call) error {
	ifaces, err := userspace.Detach(c.pinDir(), c.cli.Args().Slice()...)
	for _, name := range ifaces {
		fmt.Fprintf(c.out, "%s detached\n", name)
	}
	if err == nil && len(ifaces) == 0 {
		fmt.Fprintln(c.out, "Nothing was attached")
	}
	return err
}

func runBypass(c *call) error {
	on := c.arg(0) == "on"
	if err := userspace.Bypass(c.pinDir(), on); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "Bypass is now %s\n", strings.ToLower(c.arg(0)))
	if on {
		c.note("every packet passes, whatever is listed, until: portcullis bypass off")
	}
	return nil
}
