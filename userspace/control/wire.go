package control

import (
	"errors"
	"fmt"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// MaxOps bounds one batch, MaxBody the bytes of its JSON.
const (
	MaxOps  = 10_000
	MaxBody = 16 << 20
)

// Operation is the wire form of a lists.Operation: what a client may ask for. A field that does not belong to
// the operation is refused, not ignored.
type Operation struct {
	Op      string   `json:"op" enum:"add,delete,clear,clear_sources,set"`
	List    string   `json:"list,omitempty" enum:"whitelist,blacklist" doc:"add, delete, clear, clear_sources"`
	Kind    string   `json:"kind,omitempty" enum:"ip,cookie,token,api_key,username" doc:"add, delete"`
	Name    string   `json:"name,omitempty" doc:"add, delete: name of the cookie or of the API key's header"`
	Value   string   `json:"value,omitempty" doc:"add, delete"`
	For     int64    `json:"for,omitempty" minimum:"0" doc:"add: seconds from now that the entry lives"`
	Until   string   `json:"until,omitempty" doc:"add: RFC 3339 time at which the entry ends; neither for nor until: never"`
	Reason  string   `json:"reason,omitempty" doc:"add"`
	Comment string   `json:"comment,omitempty" doc:"add"`
	Source  string   `json:"source,omitempty" enum:"manual,abs_detected,decoy,invalid_protocol,invalid_method,invalid_content_type,missing_token" doc:"add: who found it (none: manual); delete: from this source only (none: from all). Only root may give another than manual"`
	Sources []string `json:"sources,omitempty" enum:"manual,abs_detected,decoy,invalid_protocol,invalid_method,invalid_content_type,missing_token" doc:"clear_sources"`
	Setting string   `json:"setting,omitempty" enum:"firewall,abs,abs_attack,ase_detected_attack,audit,sideband_authentication,xff,log_level" doc:"set"`
	To      string   `json:"to,omitempty" enum:"enabled,disabled,debug,info,warn,error" doc:"set: enabled or disabled; debug, info, warn or error for log_level"`
}

type wireBatch struct {
	Ops         []Operation `json:"ops" minItems:"1" maxItems:"10000" doc:"Applied in order, whole or not at all."`
	AcceptRisk  []string    `json:"accept_risk,omitempty" maxItems:"32" doc:"Risks of an earlier refusal that the caller accepts."`
	SessionPeer string      `json:"session_peer,omitempty" maxLength:"64" doc:"Address the caller's SSH session comes from; only used to refuse what would cut it off."`
}

type wireReply struct {
	Generation uint64   `json:"generation" doc:"Generation that holds the batch."`
	Outcomes   []string `json:"outcomes" enum:"added,replaced,unchanged,deleted,not_found,cleared,changed" doc:"What each operation came to."`
	Counts     []int    `json:"counts" doc:"How many entries each operation added or removed."`
	Notes      []string `json:"notes" doc:"What the caller should be told."`
}

type wireEntry struct {
	List    string     `json:"list"`
	Source  string     `json:"source"`
	Kind    string     `json:"kind"`
	Name    string     `json:"name,omitempty"`
	Value   string     `json:"value"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty" doc:"Absent: never."`
	Reason  string     `json:"reason,omitempty"`
	Comment string     `json:"comment,omitempty"`
	By      string     `json:"by,omitempty"`
}

type wireEvent struct {
	Generation uint64     `json:"generation"`
	Time       time.Time  `json:"time"`
	By         string     `json:"by"`
	Via        string     `json:"via"`
	Op         string     `json:"op"`
	Before     *wireEntry `json:"before,omitempty"`
	After      *wireEntry `json:"after,omitempty"`
	Count      int        `json:"count,omitempty"`
	Note       string     `json:"note,omitempty"`
}

// wireLine is one line of a stream: an entry, an event, a sample, the error that ended it, or the end.
type wireLine struct {
	Entry *wireEntry `json:"entry,omitempty"`
	Event *wireEvent `json:"event,omitempty"`
	Drop  *Drop      `json:"drop,omitempty"`
	Lost  uint64     `json:"lost,omitempty" doc:"So many samples are missing here: the caller was too slow."`
	Error *Error     `json:"error,omitempty" doc:"The stream broke off here."`
	End   bool       `json:"end,omitempty" doc:"The last line; without it the stream was cut."`
	Count int        `json:"count,omitempty" doc:"With end: how many lines came before."`
}

type wirePassword struct {
	User string `json:"user,omitempty" doc:"Whose password; none: the caller's own. Only root may name another."`
	Old  string `json:"old,omitempty" doc:"Root without credentials may leave it out."`
	New  string `json:"new"`
}

type wireVersion struct {
	Version string `json:"version"`
}

type wireAuthMethod struct {
	AuthMethod string `json:"auth_method"`
}

type wireAudit struct {
	Lines int    `json:"lines" doc:"Lines that hold."`
	Head  string `json:"head" doc:"Hash of the last line: keep it elsewhere to notice that the whole log was replaced."`
}

func toWireEntry(e lists.Entry) wireEntry {
	w := wireEntry{
		List: e.List.String(), Source: e.Source.String(), Kind: e.ID.Kind.String(),
		Name: e.ID.Name, Value: e.ID.Value, Created: e.Created, Reason: e.Reason, Comment: e.Comment, By: e.By,
	}
	if !e.Expires.IsZero() {
		w.Expires = &e.Expires
	}
	return w
}

func (w wireEntry) entry() (lists.Entry, error) {
	e := lists.Entry{Created: w.Created, Reason: w.Reason, Comment: w.Comment, By: w.By}
	e.ID.Name, e.ID.Value = w.Name, w.Value
	var errs [3]error
	e.List, errs[0] = lists.ParseList(w.List)
	e.Source, errs[1] = lists.ParseSource(w.Source)
	e.ID.Kind, errs[2] = lists.ParseKind(w.Kind)
	if w.Expires != nil {
		e.Expires = *w.Expires
	}
	return e, errors.Join(errs[:]...)
}

func toWireEvent(e lists.Event) wireEvent {
	w := wireEvent{
		Generation: e.Generation, Time: e.Time, By: e.By, Via: e.Via, Op: e.Op.String(), Count: e.Count, Note: e.Note,
	}
	if e.Before != nil {
		b := toWireEntry(*e.Before)
		w.Before = &b
	}
	if e.After != nil {
		a := toWireEntry(*e.After)
		w.After = &a
	}
	return w
}

func (w wireEvent) event() (lists.Event, error) {
	op, err := lists.ParseOp(w.Op)
	if err != nil {
		return lists.Event{}, err
	}
	e := lists.Event{Generation: w.Generation, Time: w.Time, By: w.By, Via: w.Via, Op: op, Count: w.Count, Note: w.Note}
	if w.Before != nil {
		b, err := w.Before.entry()
		if err != nil {
			return lists.Event{}, err
		}
		e.Before = &b
	}
	if w.After != nil {
		a, err := w.After.entry()
		if err != nil {
			return lists.Event{}, err
		}
		e.After = &a
	}
	return e, nil
}

func toWireReply(r Reply) wireReply {
	w := wireReply{Generation: r.Generation, Outcomes: make([]string, len(r.Outcomes)), Counts: notNil(r.Counts), Notes: notNil(r.Notes)}
	for i, o := range r.Outcomes {
		w.Outcomes[i] = o.String()
	}
	return w
}

func (w wireReply) reply(ops int) (Reply, error) {
	if len(w.Outcomes) != ops || len(w.Counts) != ops {
		return Reply{}, fmt.Errorf("%d outcomes and %d counts for %d operations", len(w.Outcomes), len(w.Counts), ops)
	}
	r := Reply{Result: lists.Result{Generation: w.Generation, Outcomes: make([]lists.Outcome, ops), Counts: w.Counts}, Notes: w.Notes}
	for i, o := range w.Outcomes {
		var err error
		if r.Outcomes[i], err = lists.ParseOutcome(o); err != nil {
			return Reply{}, err
		}
	}
	return r, nil
}
