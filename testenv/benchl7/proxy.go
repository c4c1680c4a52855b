package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/proxy"
)

// runProxy is our proxy over a shim that knows one API.
func runProxy(ctx context.Context, address, backend string) error {
	host, text, err := net.SplitHostPort(backend)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	set := apis.NewSet(&apis.API{
		ID: "shop", Protocol: "http", Hostname: "*", URL: "/", Cookie: "session", OAuth2Token: true, EnableBlocking: true,
		Servers: []apis.Server{{Host: host, Port: port}},
	})
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	judge := shim.New(shim.Options{Logger: log})
	judge.UseAPIs(set)
	p, err := proxy.New(proxy.Options{Judge: judge, Logger: log})
	if err != nil {
		return err
	}
	p.UseAPIs(set)
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return p.Run(ctx, proxy.Listeners{Plain: []net.Listener{l}})
}

// runStdlib is a proxy of the standard library, told what makes it fast.
func runStdlib(ctx context.Context, address, backend string) error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost, transport.DisableCompression = 1024, true
	target := &url.URL{Scheme: "http", Host: backend}
	handler := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	server := &http.Server{Handler: handler}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}
