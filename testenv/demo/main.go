// Command demo shows what Portcullis does to real packets: it builds a throw-away network, runs the daemon on its
// gateway, types the seed's commands, and after each looks who still gets through. `make demo` runs it, as root.
//
// It leaves the host as it was, also when a step fails or a signal ends it; the exit code is then not 0.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// atMost bounds the whole demo; it takes about 10 s.
const atMost = time.Minute

func main() {
	// SIGPIPE too: a reader that goes away must not keep us from cleaning up.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error: demo:", err)
		os.Exit(1)
	}
}

// run makes the network, shows everything, and removes what it made.
func run(ctx context.Context, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to make network namespaces and load programs into the kernel")
	}
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	lab, err := testenv.Open()
	if err != nil {
		return err
	}
	shown := make(chan error, 1)
	go func() { shown <- show(lab, filepath.Join(root, "bin"), out) }()
	select {
	case err = <-shown:
		err = errors.Join(err, lab.Close())
	case <-ctx.Done():
		err = errors.Join(errors.New("interrupted"), lab.Close())
	case <-time.After(atMost):
		err = errors.Join(fmt.Errorf("not done after %v", atMost), lab.Close())
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "\nNamespaces, pins, processes and files of the demo are gone again.")
	return err
}

// show builds the network in the lab and runs the script in it.
func show(lab *testenv.Lab, bin string, out io.Writer) error {
	edge, err := testenv.NewEdge(lab)
	if err != nil {
		return err
	}
	bpffs, err := lab.MountBPF()
	if err != nil {
		return err
	}
	s := &script{edge: edge, daemon: testenv.NewDaemon(bin, edge.Gateway.Namespace, bpffs, "portcullis"), out: out}
	if err := s.play(); err != nil {
		return fmt.Errorf("%w\nthe daemon's log:\n%s", err, s.daemon.Log())
	}
	return nil
}
