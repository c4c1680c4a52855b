package control

import (
	"context"
	"iter"

	"github.com/portcullis/portcullis/lists"
)

// Client calls a daemon. The zero value with Socket set calls as the peer's uid. Safe for concurrent use.
// Every error is an *Error; CodeUnreachable names the socket and how to start the daemon.
type Client struct {
	Socket   string
	User     string // "": peer credentials alone
	Password string
	// SessionPeer is the address of the caller's SSH session (from SSH_CONNECTION), "" if none.
	SessionPeer string
}

// Apply sends operations as one batch, whole or not at all; at most [MaxOps] in a call.
func (c *Client) Apply(ctx context.Context, ops []Operation, acceptRisk ...string) (Reply, error) {
	panic("contract")
}

// MaxOps bounds one batch.
const MaxOps = 10_000

// Operation is the wire form of a lists.Operation: what a client may ask for.
type Operation struct {
	Op      string   `json:"op" enum:"add,delete,clear,clear_sources,set"`
	List    string   `json:"list,omitempty" enum:"whitelist,blacklist"`
	Kind    string   `json:"kind,omitempty" enum:"ip,cookie,token,api_key,username"`
	Name    string   `json:"name,omitempty"`
	Value   string   `json:"value,omitempty"`
	For     int64    `json:"for,omitempty"`   // seconds from now; 0: see Until
	Until   string   `json:"until,omitempty"` // RFC 3339; "": never
	Reason  string   `json:"reason,omitempty"`
	Comment string   `json:"comment,omitempty"`
	Source  string   `json:"source,omitempty"`  // "": manual. Only root may give another
	Sources []string `json:"sources,omitempty"` // clear_sources
	Setting string   `json:"setting,omitempty" enum:"firewall,abs,abs_attack,ase_detected_attack,audit,log_level"`
	To      string   `json:"to,omitempty"` // "enabled", "disabled", or a log level
}

// List streams the entries of a list in order; sources empty means all. The sequence ends with the first error.
func (c *Client) List(ctx context.Context, l lists.List, sources ...lists.Source) iter.Seq2[lists.Entry, error] {
	panic("contract")
}

// Status needs no login.
func (c *Client) Status(ctx context.Context) (Status, error) { panic("contract") }

// History streams the newest events first.
func (c *Client) History(ctx context.Context, limit int) iter.Seq2[lists.Event, error] {
	panic("contract")
}

// SetPassword changes the password of the calling user (root: of User).
func (c *Client) SetPassword(ctx context.Context, old, new string) error { panic("contract") }

// AuthMethod is what get_auth_method prints of: "ase::db" in the original's words.
func (c *Client) AuthMethod(ctx context.Context) (string, error) { panic("contract") }

// VerifyAudit checks the hash chain of the audit log and returns the number of lines that hold.
func (c *Client) VerifyAudit(ctx context.Context) (lines int, err error) { panic("contract") }
