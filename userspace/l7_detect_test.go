package userspace

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
)

func TestDetectConfig(t *testing.T) {
	good := DetectConfig{TTL: map[string]string{"decoy": "1d", "invalid_method": "90s"}, Webhook: "https://hooks.example/x"}
	ttl, err := good.ttl()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[lists.Source]time.Duration{lists.Decoy: 24 * time.Hour, lists.Method: 90 * time.Second}, ttl); diff != "" {
		t.Error(diff)
	}
	for text, c := range map[string]DetectConfig{
		"":                           good,
		`detect.ttl: "manual" is no`: {TTL: map[string]string{"manual": "1d"}},
		`detect.ttl: "trap" is not`:  {TTL: map[string]string{"trap": "1d"}},
		`detect.ttl: invalid`:        {TTL: map[string]string{"decoy": "soon"}},
		`detect.webhook: "x"`:        {Webhook: "x"},
	} {
		config := DefaultConfig()
		config.Detect = c
		err := config.Check()
		if (err == nil) != (text == "") || err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %q, want %q in it", c, err, text)
		}
	}
}
