package lists

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestWords(t *testing.T) {
	for i, w := range kindWords[1:] {
		if k, err := ParseKind(w); err != nil || k != Kind(i+1) || k.String() != w {
			t.Error(w, k, err)
		}
	}
	for i, w := range sourceWords[1:] {
		if s, err := ParseSource(w); err != nil || s != Source(i+1) || s.String() != w || s.Realtime() != (i >= 2) {
			t.Error(w, s, err)
		}
	}
	for i, w := range opWords[1:] {
		if o, err := ParseOp(w); err != nil || o != Op(i+1) || o.String() != w {
			t.Error(w, o, err)
		}
	}
	for i, w := range outcomeWords[1:] {
		if o, err := ParseOutcome(w); err != nil || o != Outcome(i+1) || o.String() != w {
			t.Error(w, o, err)
		}
	}
	if l, err := ParseList("blacklist"); err != nil || l != Blacklist || Whitelist.String() != "whitelist" {
		t.Error(l, err)
	}
	if s, err := ParseSource("abs_generated"); err != nil || s != ABS {
		t.Error(s, err)
	}
	if _, err := ParseKind("IP\x1b"); !errors.Is(err, ErrInvalid) || err.Error() != `invalid kind "IP\x1b": expected one of ip, cookie, token, api_key, username` {
		t.Error(err)
	}
	if _, err := ParseSource(""); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if got := Source(77).String() + " " + Verdict(9).String() + " " + Drop.String() + " " + Kind(0).String(); got != "Source(77) Verdict(9) drop Kind(0)" {
		t.Error(got)
	}
}

func TestWordsJSON(t *testing.T) {
	in := Key{Blacklist, ContentType, ID{KindAPIKey, "X-API-KEY", "key_1.4"}}
	b, err := json.Marshal(in)
	if want := `{"List":"blacklist","Source":"invalid_content_type","ID":{"Kind":"api_key","Name":"X-API-KEY","Value":"key_1.4"}}`; err != nil || string(b) != want {
		t.Fatalf("%s, %v", b, err)
	}
	var out Key
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Fatalf("%v, %v", out, err)
	}
	if b, err = json.Marshal(Key{}); err != nil || json.Unmarshal(b, &out) != nil || out != (Key{}) {
		t.Fatalf("zero: %s, %v, %v", b, err, out)
	}
	if _, err := json.Marshal(Source(9)); err == nil {
		t.Error("an unknown source was written")
	}
	if err := json.Unmarshal([]byte(`"graylist"`), new(List)); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}
