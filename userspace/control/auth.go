package control

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/portcullis/portcullis/lists"
)

// rootUser is who root is by peer credentials alone. No account may have that name.
const rootUser = "root"

// via is the door of every caller so far: the unix socket.
const via = "cli"

type callerKey struct{}

func callerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// isRoot reports whether the caller is root without a login: with one it has the login's rights.
func isRoot(c Caller) bool { return c.User == rootUser && c.UID == 0 }

// authenticate finds out who calls before anything of the body is read. Calls without Security are open to all.
// Credentials that are given must be right, for root too: who says -u and -p wants them to mean something.
func (s *Server) authenticate(ctx huma.Context, next func(huma.Context)) {
	if len(ctx.Operation().Security) == 0 {
		next(ctx)
		return
	}
	r, w := humago.Unwrap(ctx)
	p, known := r.Context().Value(peerKey{}).(peer)
	if !known {
		writeError(w, http.StatusForbidden, &Error{Code: CodeForbidden, Message: "caller has no peer credentials"})
		return
	}
	caller := Caller{Via: via, UID: p.uid, PID: p.pid}
	switch {
	case len(r.Header.Values("Authorization")) > 0:
		user, password, ok := r.BasicAuth()
		if !ok || len(r.Header.Values("Authorization")) > 1 {
			unauthorized(w, "the Authorization header is not HTTP Basic")
			return
		}
		if err := s.login(r.Context(), p, user, password); err != nil {
			unauthorizedError(w, err)
			return
		}
		caller.User = user
	case p.uid == 0:
		caller.User = rootUser
	default:
		unauthorized(w, "this needs a login")
		return
	}
	if ctx.Operation().MaxBodyBytes > bigBody && (r.ContentLength < 0 || r.ContentLength > bigBody) {
		select {
		case s.big <- struct{}{}:
			defer func() { <-s.big }()
		case <-r.Context().Done():
			return
		}
	}
	next(huma.WithValue(ctx, callerKey{}, caller))
}

// login checks a password, after the delay that earlier failures of this user from this uid have earned.
func (s *Server) login(ctx context.Context, p peer, user, password string) *Error {
	return s.loginFrom(ctx, fmt.Sprintf("uid %d", p.uid), password, Caller{User: user, Via: via, UID: p.uid, PID: p.pid})
}

// loginFrom is login from a place.
func (s *Server) loginFrom(ctx context.Context, from, password string, who Caller) *Error {
	user := who.User
	key := s.guard.key(user, s.users.known(user), from)
	if err := s.guard.enter(ctx, key); err != nil {
		return err
	}
	outcome := loginUnknown
	defer func() { s.guard.leave(key, outcome) }()
	err := s.users.verify(ctx, user, password)
	switch {
	case err == nil:
		outcome = loginRight
	case err.Code == CodeForbidden: // counted even if the call has ended: who hangs up early must not guess for free
		outcome = loginWrong
		s.auditFailedLogin(who)
	}
	return err
}

// auditFailedLogin writes a line, unless there were too many lately: then the next line says how many were left out.
func (s *Server) auditFailedLogin(who Caller) {
	omitted, ok := s.guard.mayReport()
	if !ok || !s.backend.Snapshot().Settings().Audit {
		return
	}
	if err := s.audit.write([]auditLine{s.audit.failedLogin(who, omitted)}); err != nil {
		s.log.Error("cannot audit a failed login", "user", lists.Quote(who.User), "via", who.Via, "error", err)
	}
}

const loginHint = "give -u USER and -p PASSWORD (the first account is admin), or run as root without them"

func unauthorized(w http.ResponseWriter, message string) {
	unauthorizedError(w, &Error{Code: CodeForbidden, Message: message, Hint: loginHint})
}

func unauthorizedError(w http.ResponseWriter, e *Error) {
	status := e.GetStatus()
	if e.Code == CodeForbidden {
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="portcullis"`)
	}
	writeError(w, status, e)
}

type passwordInput struct{ Body wirePassword }

// putPassword changes a password: one's own with the old one; root without a login sets anybody's.
func (s *Server) putPassword(ctx context.Context, in *passwordInput) (*struct{}, error) {
	freeRead(ctx)
	caller, user := callerOf(ctx), in.Body.User
	switch root := isRoot(caller); {
	case root && user == "":
		if user = s.users.only(); user == "" {
			return nil, invalid("no user named: say whose password with -u USER")
		}
	case !root && user == "":
		user = caller.User
	case !root && user != caller.User:
		return nil, &Error{Code: CodeForbidden, Message: "change password of " + lists.Quote(user) + ": only root may change another user's",
			Hint: "run as root without -p, or log in as that user"}
	}
	if err := checkPassword(in.Body.New); err != nil {
		return nil, err
	}
	if !isRoot(caller) || in.Body.Old != "" {
		if err := s.login(ctx, peer{uid: caller.UID, pid: caller.PID}, user, in.Body.Old); err != nil {
			err.Message = "old password: " + err.Message
			return nil, err
		}
	} else if !s.users.resettable(user) {
		return nil, &Error{Code: CodeNotFound, Message: "change password of " + lists.Quote(user) + ": there is no such user"}
	}
	record := auditRecord{caller: caller, request: newRequestID()}
	if s.backend.Snapshot().Settings().Audit {
		if err := s.audit.write([]auditLine{s.audit.passwordChange(record, user)}); err != nil {
			return nil, &Error{Code: CodeFailed, Message: "password not changed, for it cannot be audited: " + err.Error(),
				Hint: "free space in the state directory and try again"}
		}
	}
	if err := s.users.set(ctx, user, in.Body.New); err != nil {
		if s.backend.Snapshot().Settings().Audit {
			if werr := s.audit.write([]auditLine{s.audit.failed(record, actionPassword, 1, err)}); werr != nil {
				s.log.Error("cannot audit that a change failed", "error", werr)
			}
		}
		return nil, err
	}
	return nil, nil
}
