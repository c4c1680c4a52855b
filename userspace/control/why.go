package control

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/portcullis/portcullis/lists"
)

// MaxWhy bounds the addresses of one question.
const MaxWhy = 1000

// Why says what happens to the packets of an address, and why.
type Why struct {
	Address string `json:"address"`
	Verdict string `json:"verdict" enum:"pass,drop"`
	// Reason is in the words of the counters of status, or unprotected: no interface is.
	Reason string `json:"reason"`
	// Layer is what acts: kernel; l7, which judges the requests of an address and not its packets; or none.
	Layer string `json:"layer" enum:"kernel,l7,none"`
	// Entries are those of both lists that cover the address, the whitelist's first, the most specific first.
	Entries    []wireEntry `json:"entries"`
	Protected  string      `json:"protected,omitempty" doc:"Why the address is never dropped."`
	Kernel     WhyKernel   `json:"kernel"`
	Generation Generations `json:"generation"`
	Firewall   bool        `json:"firewall"`
	Bypass     bool        `json:"bypass"`
	// Unprotected are interfaces that should be protected and are not: packets that come in there pass.
	Unprotected []string `json:"unprotected,omitempty"`
}

// WhyKernel is what the kernel's maps hold for an address.
type WhyKernel struct {
	Verdict   string     `json:"verdict" enum:"pass,pass_whitelisted,drop" doc:"By the lists alone."`
	Found     bool       `json:"found" doc:"A prefix in the maps contains the address."`
	PassUntil *time.Time `json:"pass_until,omitempty" doc:"Absent: no whitelist entry, or pass_forever."`
	Pass      bool       `json:"pass_forever"`
	DropUntil *time.Time `json:"drop_until,omitempty" doc:"Absent: no blacklist entry, or drop_forever."`
	Drop      bool       `json:"drop_forever"`
	Source    string     `json:"source,omitempty" doc:"Of the blacklist entry that ends last."`
	Protected bool       `json:"protected"`
	Index     string     `json:"index,omitempty" enum:"drop,pass,ask" doc:"What the index over the maps says: it asks the maps where it does not know. Absent: there is none for the address."`
	Dropped   *Hits      `json:"dropped,omitempty" doc:"On account of the prefix in the maps, if accounting is exact."`
	Agrees    bool       `json:"agrees" doc:"With the lists in the store."`
	Differs   string     `json:"differs,omitempty" doc:"In what it does not agree."`
}

// AddEntries appends entries, in the form of the API.
func (w *Why) AddEntries(all ...lists.Entry) {
	for _, e := range all {
		w.Entries = append(w.Entries, toWireEntry(e))
	}
}

// List returns the entries that cover the address.
func (w *Why) List() ([]lists.Entry, error) {
	var all []lists.Entry
	for _, e := range w.Entries {
		entry, err := e.entry()
		if err != nil {
			return nil, err
		}
		all = append(all, entry)
	}
	return all, nil
}

type wireQuestion struct {
	Addresses []string `json:"addresses" minItems:"1" maxItems:"1000"`
}

type wireAnswers struct {
	Answers []Why `json:"answers" doc:"One for each address, in order."`
}

type whyInput struct{ Body wireQuestion }

func (s *Server) registerWhy(login []map[string][]string) {
	huma.Register(s.api, huma.Operation{
		OperationID: "why", Method: http.MethodPost, Path: "/v1/why", Security: login,
		Summary: "What happens to packets of an address, and why; changes nothing",
		Errors:  []int{400, 401, 403, 500}, MaxBodyBytes: bigBody, BodyReadTimeout: headerTimeout,
	}, func(_ context.Context, in *whyInput) (*output[wireAnswers], error) {
		if s.why == nil {
			return nil, &Error{Code: CodeFailed, Message: "this daemon cannot say why"}
		}
		out := &output[wireAnswers]{wireAnswers{Answers: []Why{}}}
		for _, text := range in.Body.Addresses {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, invalid("address %s: expected an IPv4 or IPv6 address", lists.Quote(text))
			}
			w := s.why(a.Unmap().WithZone(""))
			w.Entries = notNil(w.Entries)
			out.Body.Answers = append(out.Body.Answers, w)
		}
		return out, nil
	})
}

// Why asks about addresses, at most [MaxWhy] in a call.
func (c *Client) Why(ctx context.Context, addresses []string) ([]Why, error) {
	var out wireAnswers
	if err := c.call(ctx, http.MethodPost, "/v1/why", wireQuestion{addresses}, &out); err != nil {
		return nil, err
	}
	if len(out.Answers) != len(addresses) {
		return nil, c.garbled(invalid("%d answers to %d addresses", len(out.Answers), len(addresses)))
	}
	return out.Answers, nil
}
