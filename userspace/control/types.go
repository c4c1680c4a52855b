package control

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Code says what kind of failure an [Error] is; the CLI's exit codes come from it.
type Code string

const (
	CodeInvalid     Code = "invalid"     // 400 → exit 2: the input is wrong
	CodeForbidden   Code = "forbidden"   // 401, 403 → exit 4
	CodeRisk        Code = "risk"        // 409 → exit 5: lock-out guard; Risks names what to accept
	CodeNotFound    Code = "not_found"   // 404 → exit 7
	CodeFailed      Code = "failed"      // 5xx → exit 1
	CodeUnreachable Code = "unreachable" // client only → exit 3
)

// Error is what a call comes to when it fails. Message says what, where and why; Hint what to do next.
type Error struct {
	Code    Code     `json:"code" enum:"invalid,forbidden,risk,not_found,failed" doc:"What kind of failure this is."`
	Message string   `json:"message" doc:"What failed, where and why."`
	Hint    string   `json:"hint,omitempty" doc:"What to do next."`
	Risks   []string `json:"risks,omitempty" doc:"The risks to name in accept_risk, if code is risk."`
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// GetStatus returns the HTTP status that goes with the code.
func (e *Error) GetStatus() int {
	switch e.Code {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeForbidden:
		return http.StatusForbidden
	case CodeRisk:
		return http.StatusConflict
	case CodeNotFound:
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

// Caller is who makes a call, as the server established it.
type Caller struct {
	User string // "root" by peer credentials, or the login name
	Via  string // "cli": the unix socket; "rest_api": the management API
	From string // the address of who calls over the network, else ""
	UID  int    // peer's uid
	PID  int    // peer's process when it connected
	// SessionPeer is the address the caller's SSH session comes from, "" if none: said by the CLI, used only to
	// refuse an entry that would cut the caller off.
	SessionPeer string
}

// Request asks for a batch.
type Request struct {
	Caller     Caller
	Batch      lists.Batch
	AcceptRisk []string
	DryRun     bool // change nothing: Reply says what the batch would come to, errors why it would fail
}

// Reply says what a batch came to. It is given only after the change is durable and enforced.
type Reply struct {
	lists.Result
	Notes []string // for stderr: "10.0.0.1/8 has host bits set: 10.0.0.0/8 is listed", "will refill", "stays reachable"
}

// Backend is the node behind the API. Its methods are called from many goroutines at once.
type Backend interface {
	// Apply makes the change durable and enforced. Errors are *Error. The context does not end when the client
	// goes away: a change that was begun is finished, and audited as it ended. It ends some seconds after Serve's.
	Apply(ctx context.Context, r Request) (Reply, error)
	Snapshot() *lists.Snapshot
	Status() Status
	History(ctx context.Context, limit int) iter.Seq2[lists.Event, error]
}

// Status is the state of a node, as `status -o json` prints it.
type Status struct {
	Version  string         `json:"version"`
	Started  time.Time      `json:"started"`
	Mode     string         `json:"mode"` // inline or sideband
	Settings lists.Settings `json:"settings"`

	Degraded []string `json:"degraded"` // one line each, empty when all is well
	// Warnings are what the admin should mend though everything is enforced, one line each: the default password,
	// an audit chain that does not hold. The CLI shows them on stderr. The server adds its own to the Backend's.
	Warnings []string `json:"warnings"`

	Generation Generations `json:"generation"`
	// IPEnforcement says who acts on listed addresses: kernel, l7 or both.
	IPEnforcement string `json:"ip_enforcement"`
	// Fronts are the ways in which HTTP requests come to be judged.
	Fronts     []Front         `json:"fronts"`
	Requests   *Requests       `json:"requests,omitempty"` // nil: none are judged
	Entries    map[string]int  `json:"entries"`            // "whitelist", "blacklist"
	Accounting string          `json:"accounting"`         // sampled or exact
	Sources    []SourceHits    `json:"sources"`            // what entries of each source have dropped, if accounting is exact
	Samples    Samples         `json:"samples"`
	Bypass     bool            `json:"bypass"`
	Interfaces []Interface     `json:"interfaces"`
	Memory     Memory          `json:"memory"`
	Timezone   string          `json:"timezone"`
	Protected  []ProtectedAddr `json:"protected"`
}

// Generations are those of the lists in the store, and as kernel and shim enforce them.
type Generations struct {
	Store  uint64 `json:"store"`
	Kernel uint64 `json:"kernel,omitempty" doc:"Absent: no packets are judged here."`
	Shim   uint64 `json:"shim,omitempty" doc:"Absent: no HTTP requests are judged here."`
}

// Front is one way in which HTTP requests come to be judged.
type Front struct {
	Name  string   `json:"name" doc:"Its section in the configuration."`
	HTTP  []string `json:"http" doc:"Where it listens without TLS, HOST:PORT or the path of a unix socket."`
	HTTPS []string `json:"https" doc:"Where it listens with TLS."`
}

// Requests counts HTTP requests since the daemon started.
type Requests struct {
	Passed  uint64 `json:"passed"`
	Blocked uint64 `json:"blocked"`
	Refused uint64 `json:"refused" doc:"Malformed, of no API, or in breach of a rule of their API."`
}

// Interface is the state of one attached interface.
type Interface struct {
	Name     string    `json:"name"`
	Mode     string    `json:"mode"` // native, generic, "" when down
	Frags    bool      `json:"frags"`
	Layer3   bool      `json:"layer3"`
	Fallback string    `json:"fallback,omitempty"`
	Error    string    `json:"error,omitempty"`
	Counters []Counter `json:"counters"`
}

// SourceHits is what entries of a source have dropped, since the kernel's maps were made.
type SourceHits struct {
	Source string `json:"source"`
	Hits
}

// Samples counts those of drops, since the kernel's maps were made.
type Samples struct {
	Written uint64 `json:"written"`
	Lost    uint64 `json:"lost"` // nobody made room for them in time
}

// Counter is one way out of the kernel program.
type Counter struct {
	Reason  string `json:"reason"`
	Family  string `json:"family"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Memory is the attack list memory row of status, in bytes.
type Memory struct {
	Configured uint64 `json:"configured"`
	Used       uint64 `json:"used"`
}

// ProtectedAddr is an address or prefix that is never dropped, and why.
type ProtectedAddr struct {
	Prefix string `json:"prefix"`
	Why    string `json:"why"`
}
