package control

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/portcullis/portcullis/lists"
)

// Drop is a sample: one packet that was dropped. What its headers do not tell is empty.
type Drop struct {
	Time            time.Time `json:"time"`
	Interface       string    `json:"interface"`
	Family          string    `json:"family" doc:"As status counts it."`
	Reason          string    `json:"reason" doc:"As status counts it."`
	Protocol        string    `json:"protocol,omitempty" doc:"tcp, udp, icmp, icmpv6, sctp, esp, gre, or a number."`
	Source          string    `json:"source,omitempty"`
	SourcePort      uint16    `json:"source_port,omitempty"`
	Destination     string    `json:"destination,omitempty"`
	DestinationPort uint16    `json:"destination_port,omitempty"`
	Entry           string    `json:"entry,omitempty" doc:"The blacklist entry that it is due to; absent if there is none any more."`
	EntrySource     string    `json:"entry_source,omitempty"`
	Prefix          string    `json:"prefix,omitempty" doc:"The longest of both lists that contains the source: exact accounting counts by it."`
	Hits            *Hits     `json:"hits,omitempty" doc:"What the prefix has dropped so far, if accounting is exact."`
	Packets         uint64    `json:"packets" doc:"How many were dropped, with this one, since the last sample of the same interface, family, reason and CPU."`
	Length          int       `json:"length" doc:"Of the packet, in bytes."`
	Layer3          bool      `json:"layer3,omitempty" doc:"The packet begins with its IP header."`
	Packet          []byte    `json:"packet,omitempty" doc:"Its first bytes, if they were asked for."`
}

// DropFilter says which samples are wanted: those that fit every field that is set, and one of the values of a list.
type DropFilter struct {
	Interfaces []string
	From, To   netip.Prefix // zero: any
	Protocols  []string
	Port       uint16   // of the destination; 0: any
	Sources    []string // of the entry
	Reasons    []string
	Packet     bool // packets are wanted with their samples
}

// Keeps reports whether a sample fits.
func (f *DropFilter) Keeps(d *Drop) bool {
	among := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	within := func(p netip.Prefix, text string) bool {
		if !p.IsValid() {
			return true
		}
		a, err := netip.ParseAddr(text)
		return err == nil && p.Contains(a.Unmap())
	}
	return among(f.Interfaces, d.Interface) && among(f.Protocols, d.Protocol) && among(f.Sources, d.EntrySource) &&
		among(f.Reasons, d.Reason) && (f.Port == 0 || f.Port == d.DestinationPort) &&
		within(f.From, d.Source) && within(f.To, d.Destination)
}

// Drops is a subscription to samples. Between two calls of Next a bounded number is kept.
type Drops interface {
	// Next waits for samples. lost is how many there was no room for since the last call. The error is the context's, or says
	// why there are no samples.
	Next(ctx context.Context) (drops []Drop, lost uint64, err error)
	Close()
}

// Watched is a line of Watch: a sample, or how many were lost before the next one.
type Watched struct {
	Drop *Drop
	Lost uint64
}

type watchInput struct {
	Interface []string `query:"interface,explode" maxItems:"64" doc:"Of these interfaces only."`
	From      string   `query:"from" maxLength:"64" doc:"Packets from this address or CIDR only."`
	To        string   `query:"to" maxLength:"64" doc:"Packets to this address or CIDR only."`
	Protocol  []string `query:"protocol,explode" maxItems:"64"`
	Port      int      `query:"port" minimum:"0" maximum:"65535" doc:"Of the destination."`
	Source    []string `query:"source,explode" enum:"manual,abs_detected,decoy,invalid_protocol,invalid_method,invalid_content_type,missing_token" doc:"Packets that entries of these sources drop only."`
	Reason    []string `query:"reason,explode" maxItems:"16" doc:"Dropped for these reasons only."`
	Packet    bool     `query:"packet" doc:"With the first bytes of each packet."`
}

func (i *watchInput) filter() (f DropFilter, err error) {
	f = DropFilter{Interfaces: i.Interface, Protocols: i.Protocol, Port: uint16(i.Port), Sources: i.Source, Reasons: i.Reason, Packet: i.Packet}
	if f.From, err = prefixOf("from", i.From); err == nil {
		f.To, err = prefixOf("to", i.To)
	}
	return f, err
}

func prefixOf(name, text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	id, _, err := lists.ParseID(lists.KindIP, "", text)
	if err != nil {
		return netip.Prefix{}, invalid("%s %s: expected an IP address or CIDR", name, lists.Quote(text))
	}
	p, _ := id.Prefix()
	return p, nil
}

func (s *Server) registerWatch(login []map[string][]string) {
	op := s.streaming("watch", "/v1/watch", "Samples of packets that are dropped, as it happens", login)
	op.Description = "One JSON object a line, each with drop, or with lost: how many samples the caller was too slow for. It goes on until the " +
		"caller hangs up, or ends with an error. Programs write samples only while somebody watches, and of a flood only some."
	huma.Register(s.api, op, s.getWatch)
	huma.Register(s.api, huma.Operation{
		OperationID: "hits", Method: http.MethodPost, Path: "/v1/hits", Security: login,
		Summary: "What was dropped by single prefixes, if accounting is exact; changes nothing",
		Errors:  []int{400, 401, 403, 500}, MaxBodyBytes: bigBody, BodyReadTimeout: headerTimeout,
	}, s.postHits)
}

func (s *Server) getWatch(ctx context.Context, in *watchInput) (*huma.StreamResponse, error) {
	if s.watch == nil {
		return nil, &Error{Code: CodeFailed, Message: "this daemon sees no packets: it has no interfaces", Hint: "dropped packets show on a host with interfaces; requests: status, and why --http"}
	}
	filter, err := in.filter()
	if err != nil {
		return nil, asError(err)
	}
	return s.lines(func(out *lineWriter) error {
		ctx, done := patiently(ctx)
		defer done()
		drops := s.watch(filter.Keeps)
		defer drops.Close()
		for {
			if err := out.flush(ctx); err != nil {
				return err
			}
			batch, lost, err := drops.Next(ctx)
			if err != nil {
				return watchEnded(ctx, err)
			}
			if lost > 0 {
				if err := out.write(wireLine{Lost: lost}); err != nil {
					return err
				}
			}
			for i := range batch {
				if !filter.Packet {
					batch[i].Packet = nil
				}
				if err := out.write(wireLine{Drop: &batch[i]}); err != nil {
					return err
				}
			}
		}
	}), nil
}

var errEnding = &Error{Code: CodeFailed, Message: "the daemon ends", Hint: "watch again once it runs; see: portcullis status"}

// watchEnded is the error that ends a watch.
func watchEnded(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errEnding) {
		return cause
	}
	return err
}

// patiently is for an answer that a peer may read as slowly as it likes: nothing but the server's end hurries its writes. The
// context ends when the peer goes away, and with errEnding when Serve's does.
func patiently(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancelCause(ctx)
	w, _ := ctx.Value(writerKey{}).(*stallWriter)
	ending, _ := ctx.Value(endingKey{}).(context.Context)
	if w == nil || ending == nil {
		return out, func() { cancel(nil) }
	}
	w.until = func() time.Time {
		if ending.Err() != nil {
			return time.Now().Add(hurriedWrite)
		}
		return time.Time{}
	}
	w.extend()
	stop := context.AfterFunc(ending, func() {
		cancel(errEnding)
		_ = w.control.SetWriteDeadline(time.Now().Add(hurriedWrite))
	})
	return out, func() { stop(); cancel(nil) }
}

type wirePrefixes struct {
	Prefixes []string `json:"prefixes" minItems:"1" maxItems:"1000"`
}

// Hits is what was dropped.
type Hits struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

type wireHitsAnswer struct {
	Hits []Hits `json:"hits" doc:"One for each prefix, in order, counted since the daemon started or the prefix was listed."`
}

type hitsInput struct{ Body wirePrefixes }

func (s *Server) postHits(_ context.Context, in *hitsInput) (*output[wireHitsAnswer], error) {
	if s.hits == nil {
		return nil, &Error{Code: CodeFailed, Message: "accounting is not exact", Hint: `set accounting = "exact" in the configuration and restart the daemon`}
	}
	out := &output[wireHitsAnswer]{wireHitsAnswer{Hits: []Hits{}}}
	for _, text := range in.Body.Prefixes {
		p, err := prefixOf("prefix", text)
		if err == nil && !p.IsValid() {
			err = invalid("a prefix is empty")
		}
		if err != nil {
			return nil, asError(err)
		}
		h, err := s.hits(p)
		if err != nil {
			return nil, asError(err)
		}
		out.Body.Hits = append(out.Body.Hits, h)
	}
	return out, nil
}

// Watch streams samples of packets that are dropped until ctx ends, which is the last error.
func (c *Client) Watch(ctx context.Context, f DropFilter) iter.Seq2[Watched, error] {
	query := url.Values{"interface": f.Interfaces, "protocol": f.Protocols, "source": f.Sources, "reason": f.Reasons}
	for name, p := range map[string]netip.Prefix{"from": f.From, "to": f.To} {
		if p.IsValid() {
			query.Set(name, p.String())
		}
	}
	if f.Port != 0 {
		query.Set("port", strconv.Itoa(int(f.Port)))
	}
	if f.Packet {
		query.Set("packet", "true")
	}
	return stream(ctx, c, strings.TrimSuffix("/v1/watch?"+query.Encode(), "?"), func(w wireLine) (Watched, error) {
		if w.Drop == nil && w.Lost == 0 {
			return Watched{}, errors.New("line is no sample")
		}
		return Watched{Drop: w.Drop, Lost: w.Lost}, nil
	})
}

// Hits asks what was dropped by prefixes of [Drop.Prefix], at most 1,000 in a call.
func (c *Client) Hits(ctx context.Context, prefixes []string) ([]Hits, error) {
	var out wireHitsAnswer
	if err := c.call(ctx, http.MethodPost, "/v1/hits", wirePrefixes{prefixes}, &out); err != nil {
		return nil, err
	}
	if len(out.Hits) != len(prefixes) {
		return nil, c.garbled(invalid("%d answers to %d prefixes", len(out.Hits), len(prefixes)))
	}
	return out.Hits, nil
}
