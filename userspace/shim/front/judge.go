package front

import (
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

// Reply is what a gateway is told about one request.
type Reply struct {
	Pass   bool
	Reason string      // unless Pass: a word of the metrics, such as "blacklisted"
	Answer apis.Answer // unless Pass: what the gateway is to send its client
}

// Counts are the questions of one endpoint since it was made, by what they were answered.
type Counts struct {
	Passed, Blocked, Refused uint64
	// Undecided were answered as blocked because nothing could be told.
	Undecided uint64
}

// Judge decides for one endpoint, and counts. Make one with [NewJudge]. Safe for concurrent use.
type Judge struct {
	decide func(*http.Request) shim.Decision
	log    *slog.Logger

	passed, blocked, refused, undecided atomic.Uint64
}

// NewJudge returns a judge that asks decide, which is [shim.Shim.Decide]. log may be nil.
func NewJudge(decide func(*http.Request) shim.Decision, log *slog.Logger) *Judge {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Judge{decide: decide, log: log}
}

// Judge decides about a request. If the decision panics, the request is undecided: a gateway's answer for one request
// must not depend on another.
func (j *Judge) Judge(r *http.Request) Reply {
	_, reply := j.Decide(r)
	return reply
}

// Decide is [Judge.Judge] for who needs the decision as well, to tell the shim what the backend answered; it is the zero
// value unless the request passes.
func (j *Judge) Decide(r *http.Request) (passed shim.Decision, reply Reply) {
	decided := false
	defer func() {
		if decided {
			return
		}
		j.log.Error("cannot decide about a request", "panic", recover(), "method", r.Method)
		reply = j.Undecided()
	}()
	passed = j.decide(r)
	decided = true
	switch passed.Verdict {
	case shim.Pass:
		j.passed.Add(1)
		reply.Pass = true
		return passed, reply
	case shim.Block:
		j.blocked.Add(1)
	default:
		j.refused.Add(1)
	}
	return shim.Decision{}, Reply{Reason: passed.Reason.String(), Answer: passed.Answer}
}

// Malformed answers for a request that is none.
func (j *Judge) Malformed() Reply {
	j.refused.Add(1)
	return Reply{
		Reason: shim.Malformed.String(),
		Answer: apis.Answer{Status: http.StatusBadRequest, Reason: "Bad Request", Body: "Error: Malformed Request"},
	}
}

// TooLarge answers for a request that is over a limit of the endpoint.
func (j *Judge) TooLarge() Reply {
	j.refused.Add(1)
	return Reply{
		Reason: shim.TooLarge.String(),
		Answer: apis.Answer{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "Request Header Fields Too Large", Body: "Error: Malformed Request"},
	}
}

// Undecided answers for a question that cannot be answered, such as one that does not name the client.
func (j *Judge) Undecided() Reply {
	j.undecided.Add(1)
	return Reply{
		Reason: "undecided",
		Answer: apis.Answer{Status: http.StatusForbidden, Reason: "Forbidden", Body: "Error: Undecided"},
	}
}

// Counts returns the counters of now.
func (j *Judge) Counts() Counts {
	return Counts{Passed: j.passed.Load(), Blocked: j.blocked.Load(), Refused: j.refused.Load(), Undecided: j.undecided.Load()}
}
