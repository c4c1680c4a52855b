package scenario

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestOutOfDescriptors: idle connections that take every descriptor of the daemon end no block and no protection, and once
// they are gone commands work again.
func TestOutOfDescriptors(t *testing.T) {
	r := newRig(t)
	r.daemon.Wrap = []string{"prlimit", "--nofile=96:96"}
	r.must(r.daemon.Start())
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for range 100 { // the rest of them waits in the socket's queue
		c, err := net.DialTimeout("unix", r.daemon.Socket, 5*time.Second)
		r.must(err)
		idle = append(idle, c)
	}
	testenv.Eventually(t, 10*time.Second, "the daemon is out of descriptors", func() error {
		if !strings.Contains(r.daemon.Log(), "too many open files") {
			return testenv.ErrNoAnswer
		}
		return nil
	})
	wait(1500 * time.Millisecond) // the daemon looks at its interfaces every second
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
	for _, c := range idle {
		c.Close()
	}
	idle = nil
	testenv.Eventually(t, 10*time.Second, "commands work again", func() error {
		_, err := r.daemon.Run("add_blacklist", "ip", r.Another.IPv4.String())
		return err
	})
	r.blocked(r.Another, ipv4...)
	r.blocked(r.Client, ipv4...)
	r.cleanStatus()
	if strings.Contains(r.daemon.Log(), "interface is not protected") {
		t.Error("it took the interface for unprotected")
	}
}
