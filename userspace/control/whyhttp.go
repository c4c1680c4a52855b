package control

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"

	"github.com/portcullis/portcullis/lists"
)

// HTTPQuestion asks how a request would be judged.
type HTTPQuestion struct {
	Raw    []byte `json:"raw" doc:"The head of the request as its client would send it by HTTP/1.1, in base64; a body is not looked at."`
	From   string `json:"from,omitempty" doc:"The address that it comes from; none: not known, so that no address is looked up."`
	Scheme string `json:"scheme,omitempty" enum:"http,https" doc:"None: not known."`
}

// WhyHTTP says how a request would be judged, and why.
type WhyHTTP struct {
	Request string `json:"request" doc:"Method and URL as they were read."`
	Verdict string `json:"verdict" enum:"pass,block,refuse"`
	Reason  string `json:"reason" doc:"In the words of the metrics."`
	// Entry decided; none if no entry did.
	Entry  *HTTPEntry  `json:"entry,omitempty"`
	Answer *HTTPAnswer `json:"answer,omitempty" doc:"What the client is sent, unless the verdict is pass."`
	API    string      `json:"api,omitempty" doc:"ID; absent: none was found."`
	Host   string      `json:"host" doc:"As APIs are looked up."`
	Client string      `json:"client,omitempty" doc:"By trusted_proxies."`

	Paths      []HTTPPath       `json:"paths" doc:"The readings of the path, the one that counts first."`
	Found      []HTTPIdentifier `json:"found" doc:"Every reading of every identifier, in the order in which the request was read."`
	Notes      []string         `json:"notes"`
	Generation uint64           `json:"generation" doc:"Of the lists that it was judged by."`
}

// HTTPEntry is an entry of a list.
type HTTPEntry struct {
	List   string `json:"list" enum:"whitelist,blacklist"`
	Kind   string `json:"kind"`
	Name   string `json:"name,omitempty"`
	Value  string `json:"value"`
	Source string `json:"source,omitempty"`
}

// HTTPAnswer is what is sent in the place of the backend's answer.
type HTTPAnswer struct {
	Status int    `json:"status"`
	Reason string `json:"reason"`
	Body   string `json:"body,omitempty"`
}

// HTTPPath is one way in which a backend may read the path.
type HTTPPath struct {
	Path string `json:"path"`
	API  string `json:"api,omitempty" doc:"ID; absent: it is of none."`
}

// HTTPIdentifier is one reading of one identifier.
type HTTPIdentifier struct {
	Kind      string      `json:"kind"`
	Name      string      `json:"name,omitempty"`
	Value     string      `json:"value"`
	Where     string      `json:"where"`
	Spelling  string      `json:"spelling"`
	Canonical bool        `json:"canonical" doc:"A whitelist entry may match it."`
	Verified  bool        `json:"verified" doc:"A user name that may whitelist."`
	Matches   []HTTPMatch `json:"matches"`
}

// HTTPMatch is an entry that names an identifier.
type HTTPMatch struct {
	List   string `json:"list" enum:"whitelist,blacklist"`
	Source string `json:"source"`
	Counts bool   `json:"counts"`
	Why    string `json:"why,omitempty" doc:"Why it does not count."`
}

type httpQuestionInput struct{ Body HTTPQuestion }

func (s *Server) registerWhyHTTP(login []map[string][]string) {
	huma.Register(s.api, huma.Operation{
		OperationID: "why_http", Method: http.MethodPost, Path: "/v1/why/http", Security: login,
		Summary: "How an HTTP request would be judged, and why; changes and counts nothing",
		Errors:  []int{400, 401, 403, 500}, MaxBodyBytes: bigBody, BodyReadTimeout: headerTimeout,
	}, func(_ context.Context, in *httpQuestionInput) (*output[WhyHTTP], error) {
		if s.whyHTTP == nil {
			return nil, &Error{Code: CodeFailed, Message: "this daemon judges no HTTP requests", Hint: "configure one of proxy, check, ext_authz, spoe, sideband"}
		}
		if from := in.Body.From; from != "" {
			a, err := netip.ParseAddr(from)
			if err != nil {
				return nil, invalid("from %s: expected an IPv4 or IPv6 address", lists.Quote(from))
			}
			in.Body.From = a.Unmap().WithZone("").String()
		}
		w := s.whyHTTP(in.Body)
		w.Paths, w.Found, w.Notes = notNil(w.Paths), notNil(w.Found), notNil(w.Notes)
		return &output[WhyHTTP]{w}, nil
	})
}

// WhyHTTP asks how a request would be judged.
func (c *Client) WhyHTTP(ctx context.Context, q HTTPQuestion) (WhyHTTP, error) {
	var out WhyHTTP
	err := c.call(ctx, http.MethodPost, "/v1/why/http", q, &out)
	return out, err
}
