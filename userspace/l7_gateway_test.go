package userspace

import (
	"strings"
	"testing"
)

func TestCheckGateways(t *testing.T) {
	for _, test := range []struct {
		listen   string
		gateways []string
		mode     string
		group    string
		want     string // in the error; "": none
	}{
		{"", nil, "", "", ""},
		{"127.0.0.1:8411", nil, "", "", ""},
		{":8411", []string{"10.0.0.0/8", "2001:db8::1"}, "", "", ""},
		{"unix:/run/portcullis/check.sock", nil, "", "", ""},
		{"8411", nil, "", "", "check.listen"},
		{"unix:check.sock", nil, "", "", "absolute path"},
		{"unix:/run/portcullis/check.sock", []string{"10.0.0.1"}, "", "", "check.gateways"},
		{":8411", []string{"nginx.example.com"}, "", "", `check.gateways: "nginx.example.com"`},
		{"unix:/run/portcullis/check.sock", nil, "0600", "www-data", ""},
		{"unix:/run/portcullis/check.sock", nil, "666", "33", ""},
		{"unix:/run/portcullis/check.sock", nil, "0770", "", "check.socket_mode"},
		{"unix:/run/portcullis/check.sock", nil, "0", "", "check.socket_mode"},
		{"unix:/run/portcullis/check.sock", nil, "rw", "", "check.socket_mode"},
		{"127.0.0.1:8411", nil, "0660", "", "check.socket_mode: listen is no unix socket"},
		{"127.0.0.1:8411", nil, "", "www-data", "check.socket_group: listen is no unix socket"},
	} {
		c := DefaultConfig()
		c.CheckEndpoint = CheckConfig{GatewayConfig{Listen: test.listen, Gateways: test.gateways, SocketMode: test.mode, SocketGroup: test.group}}
		err := c.Check()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q %q: got %v, want %q", test.listen, test.gateways, err, test.want)
		}
	}
}
