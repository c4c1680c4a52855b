package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"unicode/utf8"

	"github.com/portcullis/portcullis/lists"
)

// Client calls a daemon. The zero value with Socket set calls as the peer's uid. Safe for concurrent use; it
// keeps no connection between calls.
//
// Every error is an *Error. CodeUnreachable names the socket and how to start the daemon. When the daemon goes away
// in the middle of a change, the error is CodeFailed and says that the outcome is not known.
type Client struct {
	Socket   string
	User     string // "": peer credentials alone
	Password string
	// SessionPeer is the address of the caller's SSH session (from SSH_CONNECTION), "" if none. What is no
	// address is not sent.
	SessionPeer string

	dial func(ctx context.Context) (net.Conn, error) // nil: connect to Socket
}

// Apply sends operations as one batch, whole or not at all; at most [MaxOps] and [MaxBody] in a call.
func (c *Client) Apply(ctx context.Context, ops []Operation, acceptRisk ...string) (Reply, error) {
	if len(ops) > MaxOps {
		return Reply{}, invalid("batch has %d operations: at most %d", len(ops), MaxOps)
	}
	for i, o := range ops {
		// encoding/json would send U+FFFD for what is no UTF-8, which names another client.
		for _, s := range []string{o.Name, o.Value, o.Reason, o.Comment} {
			if !utf8.ValidString(s) {
				return Reply{}, inOperation(invalid("%s: not valid UTF-8", lists.Quote(s)), i, len(ops))
			}
		}
	}
	in := wireBatch{Ops: ops, AcceptRisk: acceptRisk}
	if a, err := netip.ParseAddr(c.SessionPeer); err == nil {
		in.SessionPeer = a.String()
	}
	var out wireReply
	if err := c.call(ctx, http.MethodPost, "/v1/batch", in, &out); err != nil {
		return Reply{}, err
	}
	r, err := out.reply(len(ops))
	if err != nil {
		return Reply{}, c.garbled(err)
	}
	return r, nil
}

// List streams the entries of a list from one snapshot: all of them in the order they were added, or, when sources
// are given, one source after the other as they are given. The sequence ends with the first error; an answer that was cut short is an error, never a shorter list.
func (c *Client) List(ctx context.Context, l lists.List, sources ...lists.Source) iter.Seq2[lists.Entry, error] {
	query := url.Values{}
	for _, s := range sources {
		query.Add("source", s.String())
	}
	path := "/v1/lists/" + url.PathEscape(l.String()) + "?" + query.Encode()
	return stream(ctx, c, path, func(w wireLine) (lists.Entry, error) {
		if w.Entry == nil {
			return lists.Entry{}, fmt.Errorf("line is no entry")
		}
		return w.Entry.entry()
	})
}

// History streams the newest events first, at most limit (0: all).
func (c *Client) History(ctx context.Context, limit int) iter.Seq2[lists.Event, error] {
	return stream(ctx, c, "/v1/history?limit="+strconv.Itoa(limit), func(w wireLine) (lists.Event, error) {
		if w.Event == nil {
			return lists.Event{}, fmt.Errorf("line is no event")
		}
		return w.Event.event()
	})
}

// Status needs no login.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	err := c.anonymous().call(ctx, http.MethodGet, "/v1/status", nil, &out)
	return out, err
}

// Version returns the version of the daemon; it needs no login.
func (c *Client) Version(ctx context.Context) (string, error) {
	var out wireVersion
	err := c.anonymous().call(ctx, http.MethodGet, "/v1/version", nil, &out)
	return out.Version, err
}

// SetPassword changes the password of the calling user. Root that gives no Password changes that of User ("": the
// only user there is) and may leave old empty.
func (c *Client) SetPassword(ctx context.Context, old, new string) error {
	if !utf8.ValidString(old) || !utf8.ValidString(new) {
		return invalid("password is not valid UTF-8")
	}
	in := wirePassword{User: c.User, Old: old, New: new}
	caller := c
	if c.Password == "" {
		caller = c.anonymous()
	}
	return caller.call(ctx, http.MethodPut, "/v1/password", in, nil)
}

// AuthMethod is what get_auth_method prints of: "ase::db" in the original's words.
func (c *Client) AuthMethod(ctx context.Context) (string, error) {
	var out wireAuthMethod
	err := c.call(ctx, http.MethodGet, "/v1/auth_method", nil, &out)
	return out.AuthMethod, err
}

// VerifyAudit checks the hash chain of the audit log and returns the number of lines that hold. The error says
// which line is the first that does not.
func (c *Client) VerifyAudit(ctx context.Context) (lines int, err error) {
	var out wireAudit
	err = c.call(ctx, http.MethodGet, "/v1/audit/verify", nil, &out)
	return out.Lines, err
}

// anonymous is the same client without login: what needs none must work with a wrong password too.
func (c *Client) anonymous() *Client { return &Client{Socket: c.Socket, dial: c.dial} }

// call makes one request with a JSON answer; in and out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return &Error{Code: CodeFailed, Message: fmt.Sprintf("encode request: %v", err)}
		}
		if len(body) >= MaxBody {
			return &Error{Code: CodeInvalid, Message: fmt.Sprintf("batch has %d bytes: at most %d", len(body), MaxBody), Hint: "send several batches"}
		}
	}
	res, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, MaxBody+1))
	if err != nil {
		return c.broken(ctx, method, err)
	}
	if len(answer) > MaxBody {
		return c.garbled(fmt.Errorf("more than %d bytes", MaxBody))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return c.garbled(err)
	}
	return nil
}

// stream makes one request that is answered by lines of JSON.
func stream[T any](ctx context.Context, c *Client, path string, decode func(wireLine) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		res, err := c.do(ctx, http.MethodGet, path, nil)
		if err != nil {
			yield(zero, err)
			return
		}
		defer res.Body.Close()
		in := json.NewDecoder(res.Body)
		for count := 0; ; count++ {
			var line wireLine
			if err := in.Decode(&line); err != nil {
				yield(zero, c.broken(ctx, http.MethodGet, fmt.Errorf("answer was cut after %d lines: %w", count, err)))
				return
			}
			switch {
			case line.Error != nil:
				yield(zero, line.Error)
				return
			case line.End && line.Count != count:
				yield(zero, c.garbled(fmt.Errorf("%d lines instead of %d", count, line.Count)))
				return
			case line.End:
				return
			}
			v, err := decode(line)
			if err != nil {
				yield(zero, c.garbled(err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
	}
}

// do sends a request and returns an answer of status 2xx, whose body the caller closes. A daemon that is too busy
// to look at a request is asked again for a while.
func (c *Client) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	wait := retry{}
	for {
		req, err := http.NewRequestWithContext(ctx, method, "http://portcullis"+path, bytes.NewReader(body))
		if err != nil {
			return nil, &Error{Code: CodeFailed, Message: fmt.Sprintf("make request: %v", err)}
		}
		req.Header.Set("Accept", "application/json")
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		if c.User != "" {
			req.SetBasicAuth(c.User, c.Password)
		}
		res, err := c.transport().RoundTrip(req)
		busy := err == nil && res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != ""
		if (busy || isBusy(err)) && wait.again(ctx) {
			if res != nil {
				res.Body.Close()
			}
			continue
		}
		if err != nil {
			return nil, c.unreached(ctx, method, err)
		}
		if res.StatusCode < 200 || res.StatusCode > 299 {
			defer res.Body.Close()
			return nil, c.refused(res)
		}
		return res, nil
	}
}
