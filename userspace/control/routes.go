package control

import (
	"context"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/portcullis/portcullis/lists"
)

// authMethod is what the original answers when users are kept in its own database.
const authMethod = "ase::db"

type output[T any] struct{ Body T }

// register adds every call. Calls with Security need a login (or root), see authenticate.
func (s *Server) register() {
	login := []map[string][]string{{"basic": {}}}
	huma.Register(s.api, huma.Operation{
		OperationID: "status", Method: http.MethodGet, Path: "/v1/status", Summary: "State of the node; needs no login",
	}, s.getStatus)
	huma.Register(s.api, huma.Operation{
		OperationID: "version", Method: http.MethodGet, Path: "/v1/version", Summary: "Version of the daemon; needs no login",
	}, func(context.Context, *struct{}) (*output[wireVersion], error) {
		return &output[wireVersion]{wireVersion{s.version}}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "batch", Method: http.MethodPost, Path: "/v1/batch", Security: login,
		Summary:     "Change lists and switches, whole or not at all",
		Description: "Answers after the change is durable and enforced. Deleting what is not there is no error: the outcome says not_found.",
		Errors:      []int{400, 401, 403, 409, 500}, MaxBodyBytes: MaxBody, BodyReadTimeout: bodyTimeout,
	}, s.postBatch)
	s.registerImport(login)
	s.registerWhy(login)
	s.registerWhyHTTP(login)
	s.registerSideband(login)
	s.registerAPIs(login)
	s.registerWatch(login)
	huma.Register(s.api, s.streaming("list", "/v1/lists/{list}", "Entries of a list, from one snapshot", login), s.getList)
	huma.Register(s.api, s.streaming("history", "/v1/history", "Changes, newest first", login), s.getHistory)
	huma.Register(s.api, huma.Operation{
		OperationID: "auth_method", Method: http.MethodGet, Path: "/v1/auth_method", Security: login, Summary: "How users log in",
	}, func(context.Context, *struct{}) (*output[wireAuthMethod], error) {
		return &output[wireAuthMethod]{wireAuthMethod{authMethod}}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "password", Method: http.MethodPut, Path: "/v1/password", Security: login, Summary: "Change a password",
		Errors: []int{400, 401, 403, 404, 500}, MaxBodyBytes: 8 << 10, BodyReadTimeout: headerTimeout,
	}, s.putPassword)
	huma.Register(s.api, huma.Operation{
		OperationID: "verify_audit", Method: http.MethodGet, Path: "/v1/audit/verify", Security: login, Summary: "Check the audit log's hash chain",
	}, s.getVerifyAudit)
	for _, path := range s.api.OpenAPI().Paths {
		for _, op := range []*huma.Operation{path.Get, path.Put, path.Post, path.Delete} {
			if op != nil {
				delete(op.Responses, "422") // huma's word for invalid; ours is 400
			}
		}
	}
}

// freeRead takes the deadline of the request body off again: when it ran out, net/http would take the peer for gone
// and end the context of a call that is only slow.
func freeRead(ctx context.Context) {
	if w, ok := ctx.Value(writerKey{}).(*stallWriter); ok {
		_ = w.control.SetReadDeadline(time.Time{})
	}
}

func (s *Server) getStatus(context.Context, *struct{}) (*output[Status], error) {
	st := s.backend.Status()
	if st.Version == "" {
		st.Version = s.version
	}
	st.Warnings = append(append([]string{}, st.Warnings...), s.warnings()...)
	// Scripts get lists, never null.
	st.Degraded = notNil(st.Degraded)
	st.Interfaces = notNil(st.Interfaces)
	st.Fronts = notNil(st.Fronts)
	st.Protected = notNil(st.Protected)
	st.Sources = notNil(st.Sources)
	if st.Entries == nil {
		st.Entries = map[string]int{}
	}
	st.Interfaces = slices.Clone(st.Interfaces)
	for i := range st.Interfaces {
		st.Interfaces[i].Counters = notNil(st.Interfaces[i].Counters)
	}
	return &output[Status]{st}, nil
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// warnings are what this package itself would have the admin mend.
func (s *Server) warnings() []string {
	w := s.users.warnings()
	if broken := s.audit.broken(); broken != "" {
		w = append(w, broken)
	}
	return w
}

type batchInput struct{ Body wireBatch }

func (s *Server) postBatch(ctx context.Context, in *batchInput) (*output[wireReply], error) {
	freeRead(ctx)
	caller := callerOf(ctx)
	if p := in.Body.SessionPeer; p != "" {
		a, err := netip.ParseAddr(p)
		if err != nil {
			return nil, invalid("session_peer %s: expected an IP address", lists.Quote(p))
		}
		caller.SessionPeer = a.Unmap().WithZone("").String()
	}
	reply, err := s.change(ctx, caller, in.Body.Ops, in.Body.AcceptRisk)
	if err != nil {
		return nil, err
	}
	return &output[wireReply]{toWireReply(reply)}, nil
}

// change has a batch done for a caller.
func (s *Server) change(ctx context.Context, caller Caller, wire []Operation, acceptRisk []string) (Reply, error) {
	ops, notes, err := decoder{now: s.now(), by: caller.User, root: isRoot(caller)}.batch(wire)
	if err != nil {
		return Reply{}, asError(err)
	}
	request := Request{Caller: caller, AcceptRisk: acceptRisk, Batch: lists.Batch{Ops: ops, By: caller.User, Via: caller.Via}}
	reply, err := s.audited(ctx, request, wire)
	if err != nil {
		return Reply{}, asError(err)
	}
	reply.Notes = append(notNil(notes), reply.Notes...)
	return reply, nil
}

// audited writes what is asked for to the audit log, and only then has it done. What fails is written as well.
func (s *Server) audited(ctx context.Context, r Request, ops []Operation) (reply Reply, err error) {
	record := auditRecord{caller: r.Caller, request: newRequestID()}
	lines := s.audit.operations(record, r.Batch.Ops, ops, s.backend.Snapshot().Settings().Audit)
	if err := s.audit.write(lines); err != nil {
		return Reply{}, unaudited(err)
	}
	err = &Error{Code: CodeFailed, Message: "the daemon made a mistake"} // what a panic in the Backend leaves
	defer func() {
		if err == nil || len(lines) == 0 {
			return
		}
		if werr := s.audit.write([]auditLine{s.audit.failed(record, lines[0].action, len(lines), err)}); werr != nil {
			s.log.Error("cannot audit that a change failed", "error", werr)
		}
	}()
	ctx, cancel := unhurried(ctx)
	defer cancel()
	return s.backend.Apply(ctx, r)
}

func unaudited(err error) *Error {
	return &Error{Code: CodeFailed, Message: "change refused, for it cannot be audited: " + err.Error(),
		Hint: "nothing was changed; free space in the state directory and try again"}
}

type listInput struct {
	List   string   `path:"list" enum:"whitelist,blacklist"`
	Source []string `query:"source,explode" enum:"manual,abs_detected,decoy,invalid_protocol,invalid_method,invalid_content_type,missing_token" doc:"Of these sources only."`
}

func (s *Server) getList(ctx context.Context, in *listInput) (*huma.StreamResponse, error) {
	l, err := lists.ParseList(in.List)
	if err != nil {
		return nil, invalid("%v", err)
	}
	snapshot := s.backend.Snapshot()
	sections := []iter.Seq[lists.Entry]{snapshot.Entries(l)}
	if len(in.Source) > 0 {
		sections = nil
	}
	for _, w := range in.Source {
		src, err := lists.ParseSource(w)
		if err != nil {
			return nil, invalid("%v", err)
		}
		sections = append(sections, snapshot.Section(l, src))
	}
	return s.lines(func(out *lineWriter) error {
		for _, section := range sections {
			for e := range section {
				w := toWireEntry(e)
				if err := out.write(wireLine{Entry: &w}); err != nil {
					return err
				}
			}
		}
		return nil
	}), nil
}

type historyInput struct {
	Limit int `query:"limit" minimum:"0" doc:"At most so many; 0: all."`
}

func (s *Server) getHistory(ctx context.Context, in *historyInput) (*huma.StreamResponse, error) {
	return s.lines(func(out *lineWriter) error {
		for e, err := range s.backend.History(ctx, in.Limit) {
			if err != nil {
				return err
			}
			w := toWireEvent(s.audit.masked(e))
			if err := out.write(wireLine{Event: &w}); err != nil {
				return err
			}
		}
		return nil
	}), nil
}

func (s *Server) getVerifyAudit(ctx context.Context, _ *struct{}) (*output[wireAudit], error) {
	lines, head, err := s.audit.verify(ctx)
	if err != nil {
		return nil, &Error{Code: CodeFailed, Message: err.Error(), Hint: "somebody changed the audit log, or a disk lost part of it: keep it as it is and find out"}
	}
	return &output[wireAudit]{wireAudit{Lines: lines, Head: head}}, nil
}
