package spoe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

// Options of [New]. Only Decide must be set.
type Options struct {
	Decide  func(*http.Request) shim.Decision // [shim.Shim.Decide]
	Learner Learner                           // nil: nothing is learned from answers
	// MaxFrame bounds a frame, in bytes; 0: 65,532. HAProxy asks for its tune.bufsize less 4: the smaller counts.
	MaxFrame int
	// MaxRequest bounds a request whose frame comes in fragments, in bytes; 0: 262,144. A longer one is refused.
	MaxRequest int
	// MaxConns bounds the connections; 0: 1,024. One more is closed at once. Each takes up to MaxFrame + MaxRequest
	// bytes, 64 KiB for answers, and some 300 KiB for the names of headers if clients send many.
	MaxConns int
	Logger   *slog.Logger // nil: says nothing
}

// Agent answers HAProxy. Safe for concurrent use.
type Agent struct {
	options Options
	judge   *front.Judge
	awaited *awaited
	log     *slog.Logger
	conns   atomic.Int64
	refused atomic.Uint64
}

// New returns an agent that serves nobody yet.
func New(o Options) *Agent {
	if o.MaxFrame == 0 {
		o.MaxFrame = 64<<10 - 4
	}
	o.MaxFrame = max(o.MaxFrame, minFrame)
	if o.MaxRequest == 0 {
		o.MaxRequest = 256 << 10
	}
	if o.MaxConns == 0 {
		o.MaxConns = 1024
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Agent{options: o, judge: front.NewJudge(o.Decide, o.Logger), awaited: newAwaited(), log: o.Logger}
}

// Counts are what was answered so far.
func (a *Agent) Counts() front.Counts { return a.judge.Counts() }

// Overflow counts the connections that were closed because there were too many.
func (a *Agent) Overflow() uint64 { return a.refused.Load() }

// Serve answers on the connections of l until ctx ends, closes them after saying so, closes l and returns nil. It
// returns an error if l fails before.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case err != nil && retry(err):
			a.log.Warn("cannot accept a connection of HAProxy", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		case err != nil:
			return fmt.Errorf("accept from HAProxy: %w", err)
		}
		if a.conns.Add(1) > int64(a.options.MaxConns) {
			a.conns.Add(-1)
			a.refused.Add(1)
			c.Close()
			continue
		}
		running.Go(func() {
			defer a.conns.Add(-1)
			a.serve(ctx, c)
		})
	}
}

// retry reports whether a listener may work again: it is out of file descriptors or memory.
func retry(err error) bool { return !errors.Is(err, net.ErrClosed) }

// serve answers on one connection until it ends or ctx does.
func (a *Agent) serve(ctx context.Context, nc net.Conn) {
	c := &conn{
		agent: a, ctx: ctx, net: nc, builder: newBuilder(),
		in: make([]byte, 0, 4+max(minFrame, a.options.MaxFrame)), maxFrame: a.options.MaxFrame,
	}
	stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		nc.Close()
		if p := recover(); p != nil {
			a.log.Error("connection of HAProxy failed", "panic", p)
		}
	}()
	err := c.run()
	if ctx.Err() != nil {
		err = fail(codeNormal, "the agent stops")
	}
	if said, ok := errors.AsType[*protocolError](err); ok {
		if said.code != codeNormal {
			a.log.Warn("HAProxy does not speak as expected, its connection is closed", "peer", nc.RemoteAddr(), "error", said)
		}
		c.out = appendDisconnect(c.out, said.code, said.text)
		_ = c.flush() // who does not listen any more is not told
	}
}
