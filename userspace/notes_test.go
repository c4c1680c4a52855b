package userspace

import (
	"errors"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

func TestPasses(t *testing.T) {
	now := time.Unix(1000, 0)
	ended := whiteIP("198.51.100.0/24")
	ended.Expires = now
	token := lists.Entry{Key: lists.Key{List: lists.Whitelist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindToken, Value: "t"}}}
	s := snapshot(1, lists.DefaultSettings(), whiteIP("203.0.113.0/24"), whiteIP("192.0.2.7"), whiteIP("2001:db8::/32"), ended, token)
	ip := func(value string) lists.ID { return lists.ID{Kind: lists.KindIP, Value: value} }
	tests := []struct {
		id   lists.ID
		want string
	}{
		{ip("203.0.113.5"), "ip 203.0.113.5 is not blocked: ip 203.0.113.0/24 is in whitelist, which wins"},
		{ip("203.0.113.0/24"), "ip 203.0.113.0/24 is not blocked: ip 203.0.113.0/24 is in whitelist, which wins"},
		{ip("2001:db8::1"), "ip 2001:db8::1 is not blocked: ip 2001:db8::/32 is in whitelist, which wins"},
		{ip("192.0.2.0/24"), ""}, // an exception from a block is no surprise
		{ip("192.0.2.8"), ""},
		{ip("198.51.100.1"), ""},
		{ip("fe80::1"), "ip fe80::1 is never dropped: the link itself needs link-local addresses"},
		{ip("fe80::/10"), "ip fe80::/10 is never dropped: the link itself needs link-local addresses"},
		{ip("fe00::/9"), ""},
		{ip("169.254.1.1"), ""}, // IPv4 knows no such exception
		{ip("::"), "ip :: is never dropped: it stands for no address"},
		{ip("0.0.0.0"), "ip 0.0.0.0 is never dropped: it stands for no address"},
		{ip("0.0.0.0/0"), ""},
		{token.ID, "token t is in whitelist too, which wins"},
		{lists.ID{Kind: lists.KindToken, Value: "u"}, ""},
		{lists.ID{Kind: lists.KindUsername, Value: "t"}, ""},
	}
	for _, tt := range tests {
		if got := passes(tt.id, s, now); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.id, got, tt.want)
		}
	}
}

// TestUnknownRiskIsRefused: a misspelt risk is an error even where there is none to accept.
func TestUnknownRiskIsRefused(t *testing.T) {
	r := control.Request{Batch: lists.Batch{Ops: []lists.Operation{add(blackIP("203.0.113.1"))}}, AcceptRisk: []string{riskWide, "wide_prefix"}}
	_, err := checkLockOut(r, snapshot(1, lists.DefaultSettings()), nil, time.Now())
	wire, ok := errors.AsType[*control.Error](err)
	if !ok || wire.Code != control.CodeInvalid {
		t.Fatalf("%v, want %s", err, control.CodeInvalid)
	}
}
