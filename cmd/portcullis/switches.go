package main

import (
	"cmp"
	"fmt"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// nodeSwitch is one of the durable switches of a node.
type nodeSwitch struct {
	name    string // of the setting, and after enable_ and disable_
	title   string // begins what the commands print
	form    string // of what they print, with title and word; "": as most
	enable  string // what the commands are for
	disable string
}

var switches = []nodeSwitch{
	{"abs", "ABS", "", "Send access logs to ABS for analysis", "Stop sending access logs to ABS"},
	{"abs_attack", "ABS attack", "", "Take over the attack list of ABS", "Stop taking over the attack list of ABS; ABS goes on building it"},
	{"ase_detected_attack", "ASE detected attack", "", "Let the real-time detectors add to the blacklist",
		"Stop the real-time detectors and delete what they added to the blacklist"},
	{"firewall", "Firewall", "", "Enforce the lists", "Block nothing, whatever is listed; survives a restart"},
	{"audit", "Audit", "", "Write the audit log", "Stop writing the audit log"},
	{"sideband_authentication", "Sideband authentication", "%s is successfully %s\n", "Answer only gateways that show a sideband token",
		"Answer gateways without a sideband token too"},
	{"xff", "XFF", "", "Read X-Forwarded-For of trusted proxies (so it is on a new node; nobody else's is ever read)",
		"Take the peer for the client, whatever trusted proxies say"},
}

// command makes enable_NAME or disable_NAME.
func (s nodeSwitch) command(on bool) *command {
	verb, to, short := "enable_", "enabled", s.enable
	if !on {
		verb, to, short = "disable_", "disabled", s.disable
	}
	return &command{
		name: verb + s.name, group: groupSwitches, flags: changeFlags, short: short,
		run: func(c *call) error {
			ops := []control.Operation{{Op: "set", Setting: s.name, To: to}}
			if s.name == "ase_detected_attack" && !on {
				ops = append(ops, control.Operation{Op: "clear_sources", List: lists.Blacklist.String(), Sources: realtimeSources()})
			}
			if _, err := c.apply(ops...); err != nil {
				return err
			}
			fmt.Fprintf(c.out, cmp.Or(s.form, "%s is now %s\n"), s.title, to)
			if on && (s.name == "abs" || s.name == "abs_attack") {
				c.note(noABS)
			}
			return nil
		},
	}
}

// realtimeSources are the sources of the real-time detectors, in the words of the API.
func realtimeSources() []string {
	var words []string
	for _, section := range sections {
		if section.source.Realtime() {
			words = append(words, section.source.String())
		}
	}
	return words
}
