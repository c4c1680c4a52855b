package gateways

import (
	"fmt"
)

// gateway is one that asks.
type gateway struct {
	name  string
	start func(r *rig) (address string)
	// undecided is the status while the daemon is down. Paths below /open/ pass then.
	undecided int
	decoy     answer // to a decoy that answers 200
	// log names the file that tells of undecided requests that were passed, and what is in it.
	log, logged string
}

func all() []gateway {
	return []gateway{
		{name: "nginx", start: startNginx, decoy: answer{403, "Error: Unauthorized"}, undecided: 503, log: "undecided.log", logged: "GET /open/x HTTP/1.1\" 204 portcullis=undecided"},
		{name: "haproxy", start: startHAProxy, decoy: answer{200, "welcome"}, undecided: 503, log: "haproxy.log", logged: "portcullis=undecided"},
		{name: "caddy", start: startCaddy, decoy: answer{403, "welcome"}, undecided: 503, log: "caddy.log", logged: `"X-Portcullis-Reason":["undecided"]`},
	}
}

// nginxMain stands for Debian's nginx.conf, which includes the same folders.
const nginxMain = `daemon off; worker_processes 1; pid %[1]s/nginx.pid; error_log stderr;
events { worker_connections 512; }
http {
	client_body_temp_path %[1]s/tmp; proxy_temp_path %[1]s/tmp; fastcgi_temp_path %[1]s/tmp; uwsgi_temp_path %[1]s/tmp; scgi_temp_path %[1]s/tmp;
	include conf.d/*.conf;
	include sites-enabled/*;
}
`

func startNginx(r *rig) string {
	address := freeAddress(r.t)
	r.write("nginx/tmp/.keep", "")
	main := r.write("nginx/nginx.conf", fmt.Sprintf(nginxMain, r.dir+"/nginx"))
	r.deployed("nginx/portcullis-http.conf", "nginx/conf.d/portcullis.conf", "127.0.0.1:8411", r.check)
	r.deployed("nginx/portcullis-server.conf", "nginx/snippets/portcullis.conf", "/var/log/nginx/portcullis-undecided.log", r.dir+"/undecided.log")
	r.deployed("nginx/portcullis-ask.conf", "nginx/snippets/portcullis-ask.conf", "timeout 1s;", "timeout 10s;")
	r.deployed("nginx/site.conf", "nginx/sites-enabled/site", "listen 80", "listen "+address, "127.0.0.1:8000", r.app,
		"/var/log/nginx/access.log", r.dir+"/access.log", "include proxy_params", "include /etc/nginx/proxy_params")
	r.answers(r.start("nginx", nil, "nginx", "-e", "stderr", "-c", main), address)
	return address
}

func startHAProxy(r *rig) string {
	address := freeAddress(r.t)
	patient := []string{"timeout processing 500ms", "timeout processing 3s"}
	if r.small {
		patient = append(patient, "    max-waiting-frames 200\n", "    max-waiting-frames 200\n    max-frame-size 256\n")
	}
	global := "\nglobal\n"
	if r.user != "" {
		global += "    user " + r.user + "\n    group " + r.user + "\n"
	}
	engine := r.deployed("haproxy/portcullis.spoe", "haproxy/portcullis.spoe", patient...)
	main := r.deployed("haproxy/haproxy.cfg", "haproxy/haproxy.cfg", "\nglobal\n", global, "bind :80\n", "bind "+address+"\n", "/etc/haproxy/portcullis.spoe", engine,
		"127.0.0.1:8412", r.spoe, "127.0.0.1:8000", r.app)
	r.answers(r.start("haproxy", nil, "haproxy", "-db", "-f", main), address)
	return address
}

func startCaddy(r *rig) string {
	address := freeAddress(r.t)
	site := r.deployed("caddy/Caddyfile", "caddy/site", ":80 {", ":"+port(address)+" {", "127.0.0.1:8411", r.check, "127.0.0.1:8000", r.app,
		"dial_timeout 1s", "dial_timeout 10s", "header_timeout 1s", "header_timeout 10s",
		"uri /check/forward\n", "uri /check/forward\n\t\ttrusted_proxies "+trusted+"/32\n")
	main := r.write("caddy/Caddyfile", "{\n\tadmin off\n}\nimport "+site+"\n")
	env := []string{"HOME=" + r.dir, "XDG_DATA_HOME=" + r.dir, "XDG_CONFIG_HOME=" + r.dir}
	r.answers(r.start("caddy", env, "caddy", "run", "--config", main, "--adapter", "caddyfile"), address)
	return address
}
