package main

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/format"
	"github.com/portcullis/portcullis/userspace/control"
)

func runStatus(c *call) error {
	st, err := c.anonymous().Status(c.ctx)
	if err != nil {
		return err
	}
	if c.json() {
		err = writeJSON(c.out, st)
	} else {
		writeStatus(c, st)
	}
	for _, w := range append(st.Degraded, st.Warnings...) {
		c.warn(w)
	}
	return err
}

// statusLabel is the width of the longest label of the original's status, "sideband authentication".
const statusLabel = 23

// writeStatus prints the original's rows in its order, then our own. Scripts split at the first colon and want
// exactly one row with the word status left of it.
func writeStatus(c *call, st control.Status) {
	row := func(label, format string, args ...any) {
		fmt.Fprintf(c.out, "%-*s : %s\n", statusLabel, label, oneLine(fmt.Sprintf(format, args...)))
	}
	on := st.Settings
	fmt.Fprintln(c.out, "API Security Enforcer")
	row("status", "started")
	row("mode", "%s", st.Mode)
	row("http/ws", "%s", ports(st.Fronts, func(f control.Front) []string { return f.HTTP }))
	row("https/wss", "%s", ports(st.Fronts, func(f control.Front) []string { return f.HTTPS }))
	row("firewall", "%s", enabled(on.Firewall))
	row("abs", "%s, ssl: enabled", enabled(on.ABS))
	row("abs attack", "%s", enabled(on.ABSAttack))
	row("audit", "%s", enabled(on.Audit))
	row("sideband authentication", "%s", enabled(on.SidebandAuthentication))
	row("ase detected attack", "%s", enabled(on.ASEDetectedAttack))
	row("attack list memory", "configured %s, used %s, free %s", megabytes(st.Memory.Configured),
		megabytes(st.Memory.Used), megabytes(st.Memory.Configured-min(st.Memory.Used, st.Memory.Configured)))
	row("log level", "%s", on.LogLevel)
	row("timezone", "%s", st.Timezone)

	row("version", "%s", st.Version)
	row("interfaces", "%s", interfaceList(st.Interfaces))
	row("whitelist", "%d entries", st.Entries["whitelist"])
	row("blacklist", "%d entries", st.Entries["blacklist"])
	row("generation", "%s", generations(st.Generation))
	row("ip enforcement", "%s", st.IPEnforcement)
	row("dropped", "%d packets", dropped(st.Interfaces))
	if r := st.Requests; r != nil {
		row("requests", "passed %d, blocked %d, refused %d", r.Passed, r.Blocked, r.Refused)
	}
	if st.Bypass {
		row("bypass", "on")
	}
	row("degraded", "%s", cmp.Or(strings.Join(st.Degraded, "; "), "no"))
}

// ports is where fronts listen, as the original's status shows it: "port 80".
func ports(fronts []control.Front, of func(control.Front) []string) string {
	var all []string
	for _, f := range fronts {
		if f.Name == "management" {
			continue // no clients come there
		}
		for _, address := range of(f) {
			if _, port, err := net.SplitHostPort(address); err == nil && !slices.Contains(all, port) {
				all = append(all, port)
			}
		}
	}
	if len(all) == 0 {
		return "disabled"
	}
	return "port " + strings.Join(all, ", ")
}

func generations(g control.Generations) string {
	text := fmt.Sprintf("store %d", g.Store)
	if g.Kernel != 0 {
		text += fmt.Sprintf(", kernel %d", g.Kernel)
	}
	if g.Shim != 0 {
		text += fmt.Sprintf(", shim %d", g.Shim)
	}
	return text
}

// megabytes is a size as the original's status shows it.
func megabytes(bytes uint64) string { return fmt.Sprintf("%.2f MB", float64(bytes)/(1<<20)) }

func enabled(on bool) string {
	if on {
		return "enabled"
	}
	return "disabled"
}

func interfaceList(all []control.Interface) string {
	var shown []string
	for _, i := range all {
		mode := i.Mode
		if mode == "" {
			mode = "not protected"
		}
		shown = append(shown, i.Name+" "+mode)
	}
	return cmp.Or(strings.Join(shown, ", "), "none")
}

// dropped sums the counters of every way out that drops; their names begin with drop_.
func dropped(all []control.Interface) (packets uint64) {
	for _, i := range all {
		for _, count := range i.Counters {
			if strings.HasPrefix(count.Reason, "drop_") {
				packets += count.Packets
			}
		}
	}
	return packets
}

func runLogLevel(c *call) error {
	level := c.arg(0)
	if level != "" {
		if level == "fatal" {
			c.note("log level fatal is kept as error")
			level = "error"
		}
		if _, err := c.apply(control.Operation{Op: "set", Setting: "log_level", To: level}); err != nil {
			return err
		}
		if c.json() {
			return writeJSON(c.out, map[string]string{"log_level": level})
		}
		fmt.Fprintf(c.out, "Log level is now %s\n", level)
		return nil
	}
	st, err := c.anonymous().Status(c.ctx)
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, map[string]string{"log_level": st.Settings.LogLevel})
	}
	fmt.Fprintf(c.out, "Log level is %s\n", st.Settings.LogLevel)
	return nil
}

// defaultLimit is how many events history shows if it is not told.
const defaultLimit = 100

func runHistory(c *call) error {
	limit := defaultLimit
	if c.cli.IsSet("limit") {
		n, err := strconv.Atoi(c.cli.String("limit"))
		if err != nil || n < 0 {
			return &usageError{fmt.Sprintf("--limit %s: expected a whole number, 0 or more", lists.Quote(c.cli.String("limit"))), "--limit 20"}
		}
		limit = n
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	events := cl.History(c.ctx, limit)
	if c.json() {
		return writeArray(c.out, events, wireEvent)
	}
	for e, err := range events {
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s | %s | %s | %s\n", e.Time.Local().Format(time.DateTime), oneLine(e.Via), oneLine(e.By), oneLine(describe(e)))
		if err != nil {
			return &outputError{err}
		}
	}
	return nil
}

// describe says in one line what an event did.
func describe(e lists.Event) string {
	var text string
	switch {
	case e.After != nil && e.Before != nil:
		text = fmt.Sprintf("%s updated in %s%s", e.After.ID, e.After.List, details(*e.After))
	case e.After != nil:
		text = fmt.Sprintf("%s added to %s%s", e.After.ID, e.After.List, details(*e.After))
	case e.Before != nil:
		text = fmt.Sprintf("%s deleted from %s%s", e.Before.ID, e.Before.List, details(lists.Entry{Key: e.Before.Key}))
	case e.Op == lists.OpClear || e.Op == lists.OpClearSources:
		return fmt.Sprintf("%s cleared, %d entries deleted", cmp.Or(e.Note, "list"), e.Count) // the note names the list and its sources
	default:
		text = e.Op.String()
	}
	if e.Note != "" {
		text += ": " + e.Note
	}
	return text
}

// details are the facts of an entry that its identifier does not say.
func details(e lists.Entry) string {
	var text string
	if e.Source != lists.Manual {
		text += ", source " + e.Source.String()
	}
	if !e.Expires.IsZero() {
		text += ", until " + e.Expires.Local().Format(time.DateTime)
	}
	if e.Reason != "" {
		text += ", reason " + lists.Quote(e.Reason)
	}
	if e.Comment != "" {
		text += ", comment " + lists.Quote(e.Comment)
	}
	return text
}

// jsonEvent is one event in the output of -o json. before and after are null where the entry did not exist.
type jsonEvent struct {
	Generation uint64          `json:"generation"`
	Time       time.Time       `json:"time"`
	By         string          `json:"by"`
	Via        string          `json:"via"`
	Op         string          `json:"op"`
	Before     *format.Element `json:"before"`
	After      *format.Element `json:"after"`
	Count      int             `json:"count"`
	Note       string          `json:"note"`
}

func wireEvent(e lists.Event) jsonEvent {
	j := jsonEvent{Generation: e.Generation, Time: e.Time, By: e.By, Via: e.Via, Op: e.Op.String(), Count: e.Count, Note: e.Note}
	if e.Before != nil {
		before := wireEntry(*e.Before)
		j.Before = &before
	}
	if e.After != nil {
		after := wireEntry(*e.After)
		j.After = &after
	}
	return j
}

func runVerifyAudit(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	lines, err := cl.VerifyAudit(c.ctx)
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, map[string]int{"lines": lines})
	}
	fmt.Fprintf(c.out, "Audit log is intact, %d lines\n", lines)
	return nil
}

func runAuthMethod(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	method, err := cl.AuthMethod(c.ctx)
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, map[string]string{"auth_method": method})
	}
	fmt.Fprintf(c.out, "Current auth method: %s\n", oneLine(method))
	return nil
}

// runUpdatePassword logs in with the old password where none is given: it proves as much, and the original's
// `update_password -u admin` asks for no other.
func runUpdatePassword(c *call) error {
	user, password := c.cli.String("user"), ""
	given := os.Getenv(passwordEnv) != "" || c.cli.IsSet("password") || c.cli.IsSet("password-file") || c.cli.Bool(bareName("password"))
	if given {
		var err error
		if user, password, err = c.login(); err != nil {
			return err
		}
	}
	answers, err := c.threePasswords()
	if err != nil {
		return err
	}
	cl := c.anonymous()
	cl.User, cl.Password = user, password
	if !given && os.Geteuid() != 0 {
		cl.User, cl.Password = cmp.Or(user, defaultUser), answers[0]
	}
	if err := cl.SetPassword(c.ctx, answers[0], answers[1]); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "Password updated successfully")
	return nil
}

// threePasswords reads the old password, the new one, and the new one again.
func (c *call) threePasswords() (answers [3]string, err error) {
	for i, prompt := range []string{"old password: ", "new password: ", "new password again: "} {
		if answers[i], err = c.askSecret(prompt); err != nil {
			return answers, err
		}
	}
	switch {
	case answers[1] != answers[2]:
		return answers, &usageError{"the two new passwords differ; nothing was changed", "type the same new password twice"}
	case answers[1] == "":
		return answers, &usageError{"the new password is empty; nothing was changed", "type a new password"}
	}
	return answers, nil
}

func runVersion(c *call) error {
	if c.json() {
		return writeJSON(c.out, map[string]string{"version": buildVersion()})
	}
	fmt.Fprintf(c.out, "portcullis %s\n", buildVersion())
	return nil
}
