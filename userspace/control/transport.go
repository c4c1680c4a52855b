package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// answerTimeout is how long a client waits for the first byte of an answer.
const answerTimeout = 2 * time.Minute

// transport makes a connection for one request.
func (c *Client) transport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if c.dial != nil {
				return c.dial(ctx)
			}
			d := net.Dialer{Timeout: 10 * time.Second}
			return d.DialContext(ctx, "unix", c.Socket)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		ResponseHeaderTimeout:  answerTimeout,
	}
}

// retry paces attempts to reach a busy daemon.
type retry struct {
	tries   int
	started time.Time
}

// again waits a little, more each time, and reports whether to try once more.
func (r *retry) again(ctx context.Context) bool {
	if r.tries == 0 {
		r.started = time.Now()
	}
	if time.Since(r.started) > 30*time.Second {
		return false
	}
	r.tries++
	most := min(10*time.Millisecond<<min(r.tries, 5), 200*time.Millisecond)
	t := time.NewTimer(most/2 + rand.N(most/2))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// isBusy reports whether the socket's queue of connections is full.
func isBusy(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && errors.Is(err, syscall.EAGAIN)
}

// unreached explains why there was no answer.
func (c *Client) unreached(ctx context.Context, method string, err error) *Error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		return c.broken(ctx, method, err)
	}
	switch {
	case c.Socket == "":
		return &Error{Code: CodeUnreachable, Message: "no socket given", Hint: "name the daemon's socket with --socket PATH"}
	case errors.Is(err, os.ErrPermission):
		return &Error{Code: CodeForbidden, Message: fmt.Sprintf("connect to %s: permission denied", c.Socket),
			Hint: "run as root, or have root open the directories on the way to the socket"}
	case ctx.Err() != nil:
		return &Error{Code: CodeUnreachable, Message: fmt.Sprintf("connect to %s: %v", c.Socket, context.Cause(ctx))}
	}
	why := err.Error()
	for _, known := range []struct {
		is  error
		why string
	}{
		{os.ErrNotExist, "there is no such socket"},
		{syscall.ECONNREFUSED, "nobody listens there any more"},
		{syscall.ENOTSOCK, "that is not a socket"},
		{syscall.EAGAIN, "the daemon takes no more connections"},
	} {
		if errors.Is(err, known.is) {
			why = known.why
		}
	}
	return &Error{Code: CodeUnreachable, Message: fmt.Sprintf("connect to %s: %s", c.Socket, why),
		Hint: "see why the daemon does not run: systemctl status portcullis; without systemd start it: portcullis serve --config FILE, or with " +
			"--interface IF; or name its socket: --socket PATH"}
}

// broken is the error for an answer that did not come, or not whole.
func (c *Client) broken(ctx context.Context, method string, err error) *Error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	e := &Error{Code: CodeFailed, Message: fmt.Sprintf("daemon at %s gave no whole answer: %v", c.Socket, err), Hint: "see portcullis status and the daemon's log"}
	if method != http.MethodGet {
		e.Hint = "whether the change was made is not known: view the list, then try again"
	}
	return e
}

// garbled is the error for an answer that this client does not understand.
func (c *Client) garbled(err error) *Error {
	return &Error{Code: CodeFailed, Message: fmt.Sprintf("daemon at %s answered what this client does not understand: %v", c.Socket, err),
		Hint: "is the daemon of another version? See portcullis version"}
}

// refused reads the error out of an answer.
func (c *Client) refused(res *http.Response) *Error {
	var e Error
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil || e.Code == "" || e.Message == "" {
		return &Error{Code: CodeFailed, Message: fmt.Sprintf("daemon at %s answered %s", c.Socket, res.Status),
			Hint: "is that socket Portcullis's?"}
	}
	return &e
}
