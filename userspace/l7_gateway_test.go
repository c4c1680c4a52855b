package userspace

import (
	"strings"
	"testing"
)

func TestCheckGateways(t *testing.T) {
	for _, test := range []struct {
		listen   string
		gateways []string
		want     string // in the error; "": none
	}{
		{"", nil, ""},
		{"127.0.0.1:8411", nil, ""},
		{":8411", []string{"10.0.0.0/8", "2001:db8::1"}, ""},
		{"unix:/run/portcullis/check.sock", nil, ""},
		{"8411", nil, "check.listen"},
		{"unix:check.sock", nil, "absolute path"},
		{"unix:/run/portcullis/check.sock", []string{"10.0.0.1"}, "check.gateways"},
		{":8411", []string{"nginx.example.com"}, `check.gateways: "nginx.example.com"`},
	} {
		c := DefaultConfig()
		c.CheckEndpoint = CheckConfig{Listen: test.listen, Gateways: test.gateways}
		err := c.Check()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q %q: got %v, want %q", test.listen, test.gateways, err, test.want)
		}
	}
}
