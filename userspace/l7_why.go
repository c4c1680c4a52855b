package userspace

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/shim"
)

// whyHTTP says how the shim judges a request.
func (n *node) whyHTTP(q control.HTTPQuestion) control.WhyHTTP {
	r, err := readHead(q.Raw)
	if err != nil {
		return control.WhyHTTP{Verdict: shim.Refuse.String(), Reason: shim.Malformed.String(), Notes: []string{"it is no HTTP/1.1 request: " + err.Error()}}
	}
	r.URL.Scheme = q.Scheme
	if from, err := netip.ParseAddr(q.From); err == nil {
		r.RemoteAddr = netip.AddrPortFrom(from, 0).String()
	}
	// What is asked about comes from the peer of a proxy here, or from who a gateway says it is.
	claims := shim.Claims{SchemeUnknown: q.Scheme == "", Relayed: !n.config.Proxy.wanted()}
	generation := n.feed.generation()
	e := n.shim.Explain(r.WithContext(shim.WithClaims(r.Context(), claims)))
	w := wireExplanation(e)
	w.Request, w.Generation = r.Method+" "+r.URL.RequestURI(), generation
	return w
}

// readHead reads the head of a request; an empty line at its end may be missing, lines may end in LF alone.
func readHead(raw []byte) (*http.Request, error) {
	if !bytes.Contains(raw, []byte("\r\n\r\n")) && !bytes.Contains(raw, []byte("\n\n")) {
		raw = append(bytes.TrimRight(raw, "\r\n"), "\r\n\r\n"...)
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	return r, nil
}

func wireExplanation(e shim.Explanation) control.WhyHTTP {
	d := e.Decision
	w := control.WhyHTTP{Verdict: d.Verdict.String(), Reason: d.Reason.String(), Host: e.Host, Notes: e.Notes}
	if d.API != nil {
		w.API = d.API.ID
	}
	if d.Client.IsValid() {
		w.Client = d.Client.String()
	}
	if d.ID.Kind != 0 {
		w.Entry = &control.HTTPEntry{List: d.List.String(), Kind: d.ID.Kind.String(), Name: d.ID.Name, Value: d.ID.Value}
		if d.Source != 0 {
			w.Entry.Source = d.Source.String()
		}
	}
	if d.Verdict != shim.Pass {
		w.Answer = &control.HTTPAnswer{Status: d.Answer.Status, Reason: d.Answer.Reason, Body: d.Answer.Body}
	}
	for _, p := range e.Paths {
		w.Paths = append(w.Paths, control.HTTPPath{Path: p.Path, API: p.API})
	}
	for _, i := range e.Found {
		f := control.HTTPIdentifier{Kind: i.ID.Kind.String(), Name: i.ID.Name, Value: i.ID.Value, Where: i.Where, Spelling: i.Spelling,
			Canonical: i.Canonical, Verified: i.Verified, Matches: []control.HTTPMatch{}}
		for _, m := range i.Matches {
			f.Matches = append(f.Matches, control.HTTPMatch{List: m.List.String(), Source: m.Source.String(), Counts: m.Counts, Why: m.Why})
		}
		w.Found = append(w.Found, f)
	}
	return w
}
