package gateways

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestRestartRefusesNobody: the daemon is restarted by SIGUSR2 again and again while clients come, on new connections
// and on kept ones: each of their requests is answered by the backend. A configuration that cannot be ends nothing.
func TestRestartRefusesNobody(t *testing.T) {
	b := newRecorder(t)
	inline := freeAddress(t)
	r := newRigWith(t, b.Listener.Addr().String(), api, fmt.Sprintf("[proxy]\nhttp = %q\n[proxy.limits]\ngraceful_period = \"10s\"\n", inline), freeAddress(t))
	r.settled(inline)

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	var answered atomic.Int64
	come := func(ask func() (answer, error)) {
		clients.Go(func() {
			for ctx.Err() == nil {
				switch a, err := ask(); {
				case err != nil || a != answer{200, "backend"}:
					t.Errorf("a client got %+v, %v", a, err)
					return
				default:
					answered.Add(1)
				}
			}
		})
	}
	for range 4 {
		come(func() (answer, error) { return send("127.0.0.1", inline, request{name: "client"}.raw()) })
		come(keptClient(t, inline))
	}
	restart := func(says string) {
		t.Helper()
		before, came := strings.Count(r.daemon.log(), says), answered.Load()
		if err := r.daemon.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, 60*time.Second, says+", and clients are answered", func() error {
			if now := answered.Load(); strings.Count(r.daemon.log(), says) == before || now < came+50 && !t.Failed() {
				return fmt.Errorf("%d were answered since; the log:\n%s", now-came, r.daemon.log())
			}
			return nil
		})
	}
	for range 5 {
		restart("msg=enforcing")
	}
	good, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	r.write("portcullis.toml", string(good)+"[nonsense]\n")
	restart(`msg="not restarted"`)
	r.write("portcullis.toml", string(good))
	restart("msg=enforcing")
	t.Logf("%d requests were answered", answered.Load())

	stop()
	clients.Wait()
	r.write("portcullis.toml", string(good[:bytes.Index(good, []byte("[proxy]"))]))
	if err := r.daemon.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 60*time.Second, "without [proxy] nobody waits where nobody answers", func() error {
		c, err := net.Dial("tcp", inline)
		if err == nil {
			c.Close()
			return errors.New("somebody listens there")
		}
		_, err = r.try("status")
		return err
	})
}

// keptClient asks on a connection that it keeps while it may.
func keptClient(t *testing.T, address string) func() (answer, error) {
	tr := &http.Transport{MaxIdleConnsPerHost: 1}
	t.Cleanup(tr.CloseIdleConnections)
	client := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	return func() (answer, error) {
		a, err := client.Get("http://" + address + "/kept")
		if err != nil {
			return answer{}, err
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		return answer{a.StatusCode, string(body)}, err
	}
}
