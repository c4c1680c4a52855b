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
	}{
		{"fits", snapshot(2, on, v4[:2]...), []lists.Change{{After: &v4[1]}}, false},
		{"one too many", snapshot(2, on, v4...), []lists.Change{{After: &v4[2]}}, true},
		{"too full, one deleted", snapshot(2, on, v4...), []lists.Change{{Before: &v6}}, false},
		{"too full, switch or clear", snapshot(2, on, v4...), nil, false},
		{"too full, replaced", snapshot(2, on, append(v4[1:], longer)...), []lists.Change{{Before: &v4[0], After: &longer}}, false},
		{"too full, no address", snapshot(2, on, append(v4, user)...), []lists.Change{{After: &user}}, false},
		{"too full, deleted and added", snapshot(2, on, v4...), []lists.Change{{Before: &v6}, {After: &v4[2]}}, true},
	}
	for _, tt := range tests {
		err := n.checkRoom(lists.Batch{}, tt.next, tt.changes)
		if (err != nil) != tt.refused {
			t.Errorf("%s: %v", tt.name, err)
		}
		wire, ok := errors.AsType[*control.Error](err)
		if tt.refused && (!ok || !strings.Contains(wire.Message, "3 IPv4 entries and 2 protected addresses do not fit a capacity of 4")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
