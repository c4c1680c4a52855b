package bpf

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// rule is one line of the verdict table in docs/DATAPATH.md, in the order in which the program asks.
type rule struct {
	name     string
	when     string
	families []Family // whose counter moves
	reason   Reason
}

var (
	other   = []Family{FamilyOther}
	onlyV6  = []Family{FamilyIPv6}
	eitherV = []Family{FamilyIPv4, FamilyIPv6}
)

// rules is the verdict table: the document shows it, and every row of the packet tables names the rule it is for.
var rules = []rule{
	{"bypass", "`portcullis bypass on`", other, PassBypass},
	{"firewall off", "`disable_firewall`", other, PassFirewallOff},
	{"short frame", "ends inside the Ethernet header, a VLAN tag, the PPPoE header or the PPP protocol; empty on a layer-3 device", other, DropShort},
	{"tag depth", "more than 8 VLAN tags (0x8100, 0x88a8, 0x9100)", other, DropVLANDepth},
	{"non-IP", "any other ethertype or PPP protocol, any other version nibble on a layer-3 device", other, PassNonIP},
	{"short IP", "ends inside the fixed header: 20 bytes of IPv4, 40 bytes of IPv6", eitherV, DropShort},
	{"version", "version nibble contradicts the ethertype or PPP protocol", eitherV, DropVersion},
	{"unspecified", "source `0.0.0.0` or `::` (DHCP, duplicate address detection)", eitherV, PassUnspecified},
	{"link-local", "source in `fe80::/10`", onlyV6, PassLinkLocal},
	{"neighbour", "ICMPv6 type 133 to 137, hop limit 255, directly after the fixed header", onlyV6, PassNeighbour},
	{"index", "in mode indexed: the index has no drop for it (unlisted, expired, whitelisted or protected: it does not tell which)", eitherV, PassIndex},
	{"protected", "else the longest matching prefix has an unexpired pass deadline from a protected address", eitherV, PassProtected},
	{"whitelisted", "it has an unexpired pass deadline from a whitelist entry", eitherV, PassWhitelisted},
	{"blacklisted", "it has an unexpired drop deadline; in mode indexed also: the index drops it, and the lease holds", eitherV, DropBlacklisted},
	{"expired", "it has deadlines, and all have come", eitherV, PassExpired},
	{"unlisted", "no prefix matches, or the one that does has no deadline", eitherV, PassUnlisted},
}

func ruleNamed(t testing.TB, name string) rule {
	t.Helper()
	i := slices.IndexFunc(rules, func(r rule) bool { return r.name == name })
	if i < 0 {
		t.Fatalf("no rule %q", name)
	}
	return rules[i]
}

// table renders the rules as the document has them.
func table() string {
	var b strings.Builder
	fmt.Fprintln(&b, "| # | rule | when | action | counter | family |")
	fmt.Fprintln(&b, "|---|---|---|---|---|---|")
	for i, r := range rules {
		action := "pass"
		if r.reason.Drops() {
			action = "**drop**"
		}
		var families []string
		for _, f := range r.families {
			families = append(families, f.String())
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | `%s` | %s |\n", i+1, r.name, r.when, action, r.reason, strings.Join(families, ", "))
	}
	return b.String()
}

var writeDoc = flag.Bool("write", false, "write the verdict table into docs/DATAPATH.md")

func TestDocumentHasTheTable(t *testing.T) {
	const file, begin, end = "../docs/DATAPATH.md", "<!-- verdicts -->\n", "<!-- end of verdicts -->"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks the lines %q and %q", file, begin, end)
	}
	if got == table() {
		return
	}
	if *writeDoc {
		if err := os.WriteFile(file, []byte(before+begin+table()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the verdict table of %s is not that of the rules; go test ./bpf -run Document -write writes it:\n%s", file, table())
}

func TestRulesCoverEveryReason(t *testing.T) {
	for r := range Reason(Reasons) {
		if !slices.ContainsFunc(rules, func(rule rule) bool { return rule.reason == r }) {
			t.Errorf("no rule has the reason %s", r)
		}
	}
}
