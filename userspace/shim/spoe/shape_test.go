package spoe

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestShapesChangeNothing: whatever came before, a request is made as a connection makes its first.
func TestShapesChangeNothing(t *testing.T) {
	headers := rapid.SliceOfN(rapid.SampledFrom([]string{
		"accept", "Accept", "cookie", "x-a", "x-b", "transfer-encoding", "content-length", "x_a", "host", "", "é",
	}), 0, 4)
	shaped := 0
	rapid.Check(t, func(t *rapid.T) {
		s := newBuilder()
		few := rapid.SliceOfN(headers, 1, 4).Draw(t, "shapes")
		for i := range rapid.IntRange(1, 40).Draw(t, "requests") {
			var hdrs strings.Builder
			for j, name := range rapid.SampledFrom(few).Draw(t, "shape") {
				fmt.Fprintf(&hdrs, "%s: %d\r\n", name, 10*i+j)
			}
			hdrs.WriteString("\r\n")
			q, err := parseQuestion(asked{"GET", "/", "1.1", "192.0.2.7", hdrs.String()}.message())
			if err != nil {
				t.Fatal(err)
			}
			want, wantOK := newBuilder().build(&q)
			got, ok := s.build(&q)
			if ok != wantOK {
				t.Fatalf("request %d: %v, want %v", i, ok, wantOK)
			}
			if !ok {
				continue
			}
			if s.shapes.filled != nil {
				shaped++
			}
			if d := cmp.Diff(want.Header, got.Header); d != "" || got.Host != want.Host || got.ContentLength != want.ContentLength {
				t.Fatalf("request %d: host %q, %s", i, got.Host, d)
			}
		}
	})
	if shaped == 0 {
		t.Error("no shape was met again")
	}
}

// TestShapesKeepNothing: of a request, no value is kept once the next is made.
func TestShapesKeepNothing(t *testing.T) {
	s := newBuilder()
	build := func(hdrs string) {
		t.Helper()
		q, err := parseQuestion(asked{"GET", "/", "1.1", "192.0.2.7", hdrs + "\r\n"}.message())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := s.build(&q); !ok {
			t.Fatal("malformed")
		}
	}
	for range 3 {
		build("x-secret: mine\r\n")
	}
	secret := s.shapes.filled
	if secret == nil {
		t.Fatal("three times the same names are no shape")
	}
	build("x-other: yours\r\n")
	if secret.values[0] != "" {
		t.Errorf("%q is kept", secret.values[0])
	}
	// Those who send other names each time do not take its place, nor more memory than was agreed.
	for i := range 100 * shapeSlots {
		build(fmt.Sprintf("x-%d: a\r\n", i))
	}
	if build("x-secret: mine\r\n"); s.shapes.filled != secret {
		t.Error("the shape is forgotten")
	}
	for range 3 {
		build(strings.Repeat("x: a\r\n", maxShape+1))
	}
	if s.shapes.filled != nil {
		t.Error("names that repeat are a shape")
	}
	var long strings.Builder
	for i := range maxShape + 1 {
		fmt.Fprintf(&long, "x-%d: a\r\n", i)
	}
	for range 3 {
		build(long.String())
	}
	if s.shapes.filled != nil {
		t.Error("a shape is longer than agreed")
	}
}
