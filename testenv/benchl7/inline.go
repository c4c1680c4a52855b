package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Groups of contenders.
const inline = "inline" // a reverse proxy between client and backend

// Names that ratios ask for.
const (
	ours    = "portcullis"
	nginx   = "nginx"
	haproxy = "haproxy"
	caddy   = "caddy"
	stdlib  = "net/http"
)

// contender is one that is measured.
type contender struct {
	name  string
	group string
	about string
	start func(context.Context, *session) (*running, error)
}

// contenders in the order of the tables.
func contenders() []contender {
	return append([]contender{
		{ours, inline, "decides about every request against a million listed identifiers, and forwards it", startOurs},
		{nginx, inline, "Debian's, one worker, 64 kept connections to the backend, no access log", startNginx},
		{haproxy, inline, "Debian's, one thread, http-reuse always", startHAProxy},
		{caddy, inline, "Debian's, GOMAXPROCS=1, reverse_proxy, no access log", startCaddy},
		{stdlib, inline, "httputil.ReverseProxy with a kept connection for each client: what Go gives without work", startStdlib},
	}, asking()...)
}

// floor is a ratio of requests per CPU second: the goal, and below what a check fails, which runs briefly and on machines
// that do other things meanwhile.
type floor struct {
	workload, name, over string
	goal, least          float64
}

var floors = []floor{{keepAlive, ours, caddy, 1.5, 1.5}, {workSPOE, ours, askedEmpty, 0.9, 0.65}, {workAuthRequest, ours, askedEmpty, 0.85, 0.6}}

// keepAlive is the workload that floors are about.
const keepAlive = "GET, 1 KiB answers, 64 kept connections"

// browser is a request as a browser or an app of today sends it.
const browser = "GET /shop/items?page=2 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
	"Accept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n" +
	"Cookie: session=4f0c1a7be2d94d1d8c5c; theme=dark\r\nAuthorization: Bearer 2YotnFZFEjr1zCsicMWpAA\r\n\r\n"

func workloads() []workload {
	return append([]workload{
		{name: keepAlive, groups: []string{inline}, Connections: 64, Status: 200, Request: "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"},
		{name: "the same with a browser's headers, a cookie and a token", groups: []string{inline}, Connections: 64, Status: 200, Request: browser},
	}, askingWorkloads()...)
}

// config writes a file for a contender and returns its path.
func (s *session) config(name, text string) (string, error) {
	path := filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

func startOurs(ctx context.Context, s *session) (*running, error) {
	return s.self(ctx, contenderCPU, "-role", "proxy", "-address", "127.0.0.1:0", "-backend", s.backend)
}

func startStdlib(ctx context.Context, s *session) (*running, error) {
	return s.self(ctx, contenderCPU, "-role", "stdlib", "-address", "127.0.0.1:0", "-backend", s.backend)
}

func startNginx(ctx context.Context, s *session) (*running, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	path, err := s.config("nginx.conf", fmt.Sprintf(`daemon off; worker_processes 1; error_log stderr; pid %s/nginx.pid;
events { worker_connections 4096; }
http {
	access_log off; keepalive_requests 100000000;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	upstream backend { server %[2]s; keepalive 64; keepalive_requests 100000000; }
	server {
		listen %[3]s;
		location / {
			proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
		}
	}
}
`, s.dir, s.backend, address))
	if err != nil {
		return nil, err
	}
	return s.foreign(ctx, address, nil, "nginx", "-e", "stderr", "-c", path)
}

func startHAProxy(ctx context.Context, s *session) (*running, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	path, err := s.config("haproxy.cfg", fmt.Sprintf(`global
	nbthread 1
	maxconn 4096
defaults
	mode http
	http-reuse always
	option forwardfor
	timeout connect 5s
	timeout client 60s
	timeout server 60s
frontend in
	bind %s
	default_backend out
backend out
	server one %s
`, address, s.backend))
	if err != nil {
		return nil, err
	}
	return s.foreign(ctx, address, nil, "haproxy", "-db", "-f", path)
}

func startCaddy(ctx context.Context, s *session) (*running, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	path, err := s.config("Caddyfile", fmt.Sprintf(`{
	admin off
	auto_https off
}
http://%s {
	reverse_proxy %s
}
`, ":"+port(address), s.backend))
	if err != nil {
		return nil, err
	}
	env := []string{"GOMAXPROCS=1", "XDG_DATA_HOME=" + s.dir, "XDG_CONFIG_HOME=" + s.dir, "HOME=" + s.dir}
	return s.foreign(ctx, address, env, "caddy", "run", "--config", path, "--adapter", "caddyfile")
}
