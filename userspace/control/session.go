package control

import (
	"context"
	"net/netip"

	"github.com/portcullis/portcullis/lists"
)

// viaREST is the door of callers over the network, in the words of the original's audit log.
const viaREST = "rest_api"

// Session is what a user who logged in over the network may do. Everything that changes something is audited with his
// name and address. Safe for concurrent use.
type Session struct {
	server *Server
	caller Caller
}

// Login checks the password of a user who calls from another host, with delays after failures as on the unix socket.
// The password that every new node has is refused: it is good on this host only. The error is an *Error.
func (s *Server) Login(ctx context.Context, user, password string, from netip.Addr) (*Session, error) {
	from = from.Unmap().WithZone("")
	who := Caller{User: user, Via: viaREST, From: from.String(), UID: -1}
	if err := s.loginFrom(ctx, placeOf(from), password, who); err != nil {
		return nil, err
	}
	if s.users.isDefault(user) {
		return nil, &Error{Code: CodeForbidden, Message: "this user has the password of every new node, which is good on the node itself only",
			Hint: "change it there with update_password"}
	}
	return &Session{s, who}, nil
}

// placeOf is what failed logins are counted under: who has an IPv6 address mostly has all of its /64.
func placeOf(a netip.Addr) string {
	if a.Is6() {
		if network, err := a.Prefix(64); err == nil {
			return "network " + network.String()
		}
	}
	return "address " + a.String()
}

// Apply changes lists and switches, whole or not at all, as [Client.Apply] does.
func (c *Session) Apply(ctx context.Context, ops []Operation, acceptRisk ...string) (Reply, error) {
	return c.server.change(ctx, c.caller, ops, acceptRisk)
}

// Snapshot returns lists and switches.
func (c *Session) Snapshot() *lists.Snapshot { return c.server.backend.Snapshot() }

// Status returns the state of the node.
func (c *Session) Status() Status { return c.server.backend.Status() }

// APIs returns the API definitions by ID, without their text.
func (c *Session) APIs() ([]API, error) {
	if c.server.apis == nil {
		return nil, errNoAPIs
	}
	return c.server.apis.List(), nil
}

// API returns one definition with its text.
func (c *Session) API(id string) (API, error) {
	if c.server.apis == nil {
		return API{}, errNoAPIs
	}
	return c.server.apis.Get(id)
}

// ChangeAPI adds, updates or deletes the definition of a file, whose name gives the ID.
func (c *Session) ChangeAPI(how DefinitionChange, file, text string) error {
	if c.server.apis == nil {
		return errNoAPIs
	}
	id, _ := cutJSON(file)
	return c.server.recorded(c.caller, string(how), [][2]string{{"api", id}}, func() error {
		_, _, err := c.server.apis.Change(how, file, text)
		return err
	})
}

// SidebandTokens returns the tokens, oldest first.
func (c *Session) SidebandTokens() ([]SidebandToken, error) { return c.server.SidebandTokens() }

// ChangeSidebandToken does "create", "import" or "delete", and returns the token that it was about.
func (c *Session) ChangeSidebandToken(do, token string) (string, error) {
	return c.server.ChangeSidebandToken(c.caller, do, token)
}
