package control

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Words of the audit log that are no operation of a batch.
const (
	actionPassword  = "update_password"
	actionLogin     = "login_failed"
	actionRecovered = "audit_recovered"
)

// maskText is what the original writes in place of a secret.
const maskText = "**********"

// maxAuditText bounds how much of one outside text a line takes, in bytes before escaping.
const maxAuditText = 256

// auditLine is one line of the audit log before it has its time:
//
//	YYYY-MM-DD hh:mm:ss | cli | ACTION | resources
//
// Times are UTC. Resources are key=value pairs; a value that is not plain ASCII is quoted and escaped, so that no
// outside text can begin a line, a column or a pair. outcome=begun is written before the change is made; a change
// that then failed has a second line of the same request with outcome=failed.
type auditLine struct {
	via, action, resources string
}

func (l auditLine) at(t time.Time) string {
	return t.UTC().Format("2006-01-02 15:04:05") + " | " + l.via + " | " + l.action + " | " + l.resources
}

// auditRecord is what the lines of one call have in common.
type auditRecord struct {
	caller  Caller
	request string
}

// newRequestID tells the lines of one call from those of others.
func newRequestID() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// pairs builds the resources column.
type pairs struct{ b strings.Builder }

func (p *pairs) add(key, value string) *pairs {
	if p.b.Len() > 0 {
		p.b.WriteByte(' ')
	}
	p.b.WriteString(key + "=" + auditText(value))
	return p
}

func (p *pairs) addIf(key, value string) *pairs {
	if value == "" {
		return p
	}
	return p.add(key, value)
}

// auditText returns outside text as one word of printable ASCII without a vertical bar.
func auditText(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@,+-*#"
	rest := ""
	if len(s) > maxAuditText {
		s, rest = s[:maxAuditText], fmt.Sprintf("+%dbytes", len(s)-maxAuditText)
	} else if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return strings.ReplaceAll(strconv.QuoteToASCII(s), "|", `\x7c`) + rest
}

func (r auditRecord) begin() *pairs {
	p := &pairs{}
	p.add("request", r.request).add("user", r.caller.User)
	r.caller.place(p)
	return p
}

// place adds where a caller is.
func (c Caller) place(p *pairs) {
	if c.From != "" {
		p.add("from", c.From)
		return
	}
	p.add("uid", strconv.Itoa(c.UID)).add("pid", strconv.Itoa(c.PID))
}

// operations returns a line for each operation; with the audit switched off, for those that turn its switch.
func (a *auditLog) operations(r auditRecord, ops []lists.Operation, wire []Operation, on bool) []auditLine {
	var lines []auditLine
	for i, op := range ops {
		if !on && (op.Op != lists.OpSet || wire[i].Setting != "audit") {
			continue
		}
		p := r.begin()
		if len(ops) > 1 {
			p.add("operation", fmt.Sprintf("%d/%d", i+1, len(ops)))
		}
		action := a.describe(p, op, wire[i])
		p.add("outcome", "begun")
		lines = append(lines, auditLine{via: r.caller.Via, action: action, resources: p.b.String()})
	}
	return lines
}

// describe adds what an operation is about and returns the command it comes from.
func (a *auditLog) describe(p *pairs, op lists.Operation, wire Operation) (action string) {
	switch op.Op {
	case lists.OpAdd:
		a.identifier(p, op.Entry.ID)
		end := "never"
		if !op.Entry.Expires.IsZero() {
			end = op.Entry.Expires.UTC().Format(time.RFC3339)
		}
		p.add("source", op.Entry.Source.String()).add("expires", end).
			addIf("reason", op.Entry.Reason).addIf("comment", op.Entry.Comment)
		return "add_" + op.Entry.List.String()
	case lists.OpDelete:
		a.identifier(p, op.ID)
		return "delete_" + op.List.String()
	case lists.OpDeleteKey:
		a.identifier(p, op.Entry.ID)
		p.add("source", op.Entry.Source.String())
		return "delete_" + op.Entry.List.String()
	case lists.OpClear:
		return "clear_" + op.List.String()
	case lists.OpImport:
		p.add("entries", strconv.Itoa(op.Pack.Len()))
		if op.Replace != 0 {
			p.add("replace", op.Replace.String())
		}
		return "import"
	case lists.OpClearSources:
		p.add("sources", strings.Join(wire.Sources, ","))
		return "clear_" + op.List.String()
	}
	if wire.Setting == "log_level" {
		p.add("level", wire.To)
		return "log_level"
	}
	return strings.TrimSuffix(wire.To, "d") + "_" + wire.Setting // enable_firewall, disable_abs
}

// identifier names a client. Secrets are masked as in the original; the mark behind the mask tells them apart and
// can only be computed with this node's audit.key.
func (a *auditLog) identifier(p *pairs, id lists.ID) {
	id = a.maskedID(id)
	p.addIf("name", id.Name).add(id.Kind.String(), id.Value)
}

// maskedID is the identifier, with its mask in place of a value that is secret: who has it can act as the client.
func (a *auditLog) maskedID(id lists.ID) lists.ID {
	switch id.Kind {
	case lists.KindCookie, lists.KindToken, lists.KindAPIKey:
		id.Value = a.mask(id)
	}
	return id
}

// masked is an event for people: with the same marks as in the audit log.
func (a *auditLog) masked(e lists.Event) lists.Event {
	for _, entry := range []**lists.Entry{&e.Before, &e.After} {
		if *entry != nil {
			out := **entry
			out.ID = a.maskedID(out.ID)
			*entry = &out
		}
	}
	return e
}

func (a *auditLog) mask(id lists.ID) string {
	a.mu.Lock()
	key := a.key
	a.mu.Unlock()
	if key == nil {
		return maskText // the log is not open: without a key the mark could be guessed
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s %q %q", id.Kind, id.Name, id.Value)
	return maskText + "#" + hex.EncodeToString(mac.Sum(nil)[:4])
}

// failed is the second line of a call whose change was not made.
func (a *auditLog) failed(r auditRecord, action string, lines int, err error) auditLine {
	p := r.begin()
	if lines > 1 {
		p.add("operations", strconv.Itoa(lines))
	}
	// The message may quote a secret the caller sent: the code says enough.
	p.add("outcome", "failed").add("code", string(asError(err).Code))
	return auditLine{via: r.caller.Via, action: action, resources: p.b.String()}
}

func (a *auditLog) passwordChange(r auditRecord, user string) auditLine {
	return auditLine{via: r.caller.Via, action: actionPassword, resources: r.begin().add("of", user).add("outcome", "begun").b.String()}
}

func (a *auditLog) failedLogin(who Caller, omitted int) auditLine {
	p := (&pairs{}).add("user", who.User)
	who.place(p)
	if omitted > 0 {
		p.add("omitted", strconv.Itoa(omitted))
	}
	return auditLine{via: who.Via, action: actionLogin, resources: p.add("outcome", "failed").b.String()}
}
