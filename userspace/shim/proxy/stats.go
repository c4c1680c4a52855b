package proxy

import (
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

// Stats are counts since [New], and what there is now.
type Stats struct {
	Connections, HTTP2, Active int    // now: all, those of HTTP/2, requests at backends
	Accepted                   uint64 // connections
	RefusedConnections         uint64 // over a limit
	Handshakes                 uint64 // of TLS that failed
	ProxyHeaders               uint64 // PROXY headers that were none
	Malformed, TooLarge        uint64 // requests, refused before they were judged
	SlowHeaders, SlowBodies    uint64 // clients too slow with either
	Passed, Blocked, Refused   uint64 // requests, as judged
	Retries                    uint64
	BackendErrors              uint64
	BackendTimeouts            uint64
	NoServer, Quota            uint64 // no server configured; every server at its quota
	ClientGone                 uint64 // before its answer
	Tunnels                    uint64 // upgraded connections
	Ended                      uint64 // streams whose client was listed
	Resets, RapidResets        uint64 // streams thrown away; connections closed for that
	LogLost                    uint64 // lines of the access log
	Backends                   []Backend
}

// Backend is the state of one server of one API.
type Backend struct {
	API, Address string
	Well         bool // neither its health check nor requests to it fail
	Active, Open int  // requests, connections
	Failures     uint64
}

type counters struct {
	accepted, refusedConns, handshakes, proxyHeaders, malformed, tooLarge, slowHeads, slowBodies   atomic.Uint64
	passed, blocked, refused, retries, backendErrors, backendTimeouts, noServer, quota, clientGone atomic.Uint64
	tunnels, ended, resets, rapidResets                                                            atomic.Uint64
	noServerSaid                                                                                   atomic.Int64
}

func (c *counters) count(d shim.Decision) {
	switch d.Verdict {
	case shim.Pass:
		c.passed.Add(1)
	case shim.Block:
		c.blocked.Add(1)
	default:
		c.refused.Add(1)
	}
}

// Stats returns the counts.
func (p *Proxy) Stats() Stats {
	c := &p.stats
	s := Stats{
		Accepted: c.accepted.Load(), RefusedConnections: c.refusedConns.Load(), Handshakes: c.handshakes.Load(),
		ProxyHeaders: c.proxyHeaders.Load(), Malformed: c.malformed.Load(), TooLarge: c.tooLarge.Load(),
		SlowHeaders: c.slowHeads.Load(), SlowBodies: c.slowBodies.Load(),
		Passed: c.passed.Load(), Blocked: c.blocked.Load(), Refused: c.refused.Load(), Retries: c.retries.Load(),
		BackendErrors: c.backendErrors.Load(), BackendTimeouts: c.backendTimeouts.Load(), NoServer: c.noServer.Load(),
		Quota: c.quota.Load(), ClientGone: c.clientGone.Load(), Tunnels: c.tunnels.Load(), Ended: c.ended.Load(),
		Resets: c.resets.Load(), RapidResets: c.rapidResets.Load(), LogLost: p.access.lostLines(),
	}
	p.eachConn(func(c *conn) {
		s.Connections++
		if ph, _ := unpack(c.state.Load()); ph == phaseHanded {
			s.HTTP2++
		}
	})
	now := p.now().UnixNano()
	for sv := range p.servers() {
		b := Backend{API: sv.api, Address: sv.address, Well: !sv.unwell.Load() && sv.outUntil.Load() <= now,
			Active: int(sv.active.Load()), Open: int(sv.open.Load()), Failures: sv.failed.Load()}
		s.Active += b.Active
		s.Backends = append(s.Backends, b)
	}
	return s
}

// noServer counts, and says at most once a minute, that an API has no server.
func (p *Proxy) noServer(api *apis.API) {
	p.stats.noServer.Add(1)
	now := p.now().Unix()
	if said := p.stats.noServerSaid.Load(); now-said < int64(time.Minute/time.Second) || !p.stats.noServerSaid.CompareAndSwap(said, now) {
		return
	}
	id := ""
	if api != nil {
		id = api.ID
	}
	p.log.Error("request answered 503: its API has no server; add servers to its definition (update_api)", "api", id)
}
