package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/portcullis/portcullis/userspace"
)

// restart is what SIGUSR2 asks for: the daemon ends as by SIGTERM and begins anew in the same process, with the
// configuration and the binary of then, while the sockets of the proxy stay.
type restart struct {
	userspace.Restart
	asked  chan os.Signal
	wanted atomic.Bool
}

// listen takes the signal from now on: it no longer ends the process.
func (r *restart) listen() {
	r.asked = make(chan os.Signal, 1)
	signal.Notify(r.asked, syscall.SIGUSR2)
}

// await calls stop when a restart is asked for that can be: a configuration that says nothing useful would end the daemon.
func (r *restart) await(ctx context.Context, stop func(), log *slog.Logger, read func() (userspace.Config, error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.asked:
		}
		conf, err := read()
		if err == nil {
			err = conf.Check()
		}
		if err != nil {
			log.Error("not restarted", "error", err)
			continue
		}
		log.Info("restarting")
		r.wanted.Store(true)
		stop()
		return
	}
}

// exec begins anew; it returns only if that fails.
func (r *restart) exec() error {
	file, err := exec.LookPath(os.Args[0])
	if err != nil {
		if file, err = os.Executable(); err != nil {
			return err
		}
	}
	signal.Ignore(syscall.SIGUSR2) // which would end the new process before it listens
	return r.Exec(file, os.Args)
}
