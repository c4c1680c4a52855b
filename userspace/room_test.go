package userspace

import (
	"errors"
	"strings"
	"testing"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestCheckRoom: an entry too many is refused; where there is too little room already, what takes none is not.
func TestCheckRoom(t *testing.T) {
	n := &node{config: Config{Capacity: 4}}
	n.room.Store(2)
	on := lists.DefaultSettings()
	v4 := []lists.Entry{blackIP("192.0.2.1"), whiteIP("192.0.2.2"), blackIP("192.0.2.3")}
	v6 := blackIP("2001:db8::1")
	user := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindUsername, Value: "u"}}}
	longer := v4[0]
	longer.Reason = "scans"
	tests := []struct {
		name    string
		next    *lists.Snapshot
		changes []lists.Change
		refused bool
		ops     []lists.Operation
	}{
		{"big import that fits", snapshot(2, on, v4[:2]...), nil, false, []lists.Operation{{Op: lists.OpImport}}},
		{"big import, one too many", snapshot(2, on, v4...), nil, true, []lists.Operation{{Op: lists.OpImport}}},
		{"fits", snapshot(2, on, v4[:2]...), []lists.Change{{After: &v4[1]}}, false, nil},
		{"one too many", snapshot(2, on, v4...), []lists.Change{{After: &v4[2]}}, true, nil},
		{"too full, one deleted", snapshot(2, on, v4...), []lists.Change{{Before: &v6}}, false, nil},
		{"too full, switch or clear", snapshot(2, on, v4...), nil, false, nil},
		{"too full, replaced", snapshot(2, on, append(v4[1:], longer)...), []lists.Change{{Before: &v4[0], After: &longer}}, false, nil},
		{"too full, no address", snapshot(2, on, append(v4, user)...), []lists.Change{{After: &user}}, false, nil},
		{"too full, deleted and added", snapshot(2, on, v4...), []lists.Change{{Before: &v6}, {After: &v4[2]}}, true, nil},
	}
	for _, tt := range tests {
		err := n.checkRoom(lists.Batch{Ops: tt.ops}, tt.next, tt.changes)
		if (err != nil) != tt.refused {
			t.Errorf("%s: %v", tt.name, err)
		}
		wire, ok := errors.AsType[*control.Error](err)
		if tt.refused && (!ok || !strings.Contains(wire.Message, "3 IPv4 entries and 2 protected addresses do not fit a capacity of 4")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
