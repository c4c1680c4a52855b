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
	"runtime/debug"
	"strconv"
	"time"

	"github.com/portcullis/portcullis/lists"
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
	judge := shim.New(shim.Options{Logger: log, IPEnforcement: "both"})
	judge.UseAPIs(set)
	judge.Use(listed(million), nil, true)
	p, err := proxy.New(proxy.Options{Judge: judge, Logger: log})
	if err != nil {
		return err
	}
	p.UseAPIs(set)
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // what making the lists left
	fmt.Println(l.Addr())
	return p.Run(ctx, proxy.Listeners{Plain: []net.Listener{l}})
}

// million is how many identifiers are listed while we are measured.
const million = 1_000_000

// listed is a blacklist of cookies, tokens, API keys, usernames and addresses, none of which the generator sends.
func listed(n int) *lists.Snapshot {
	b := lists.NewBuilder(nil)
	b.Set(lists.DefaultSettings())
	for i := range n {
		id := lists.ID{Kind: lists.KindCookie, Name: "session", Value: fmt.Sprintf("%032x", i)}
		switch i % 5 {
		case 1:
			id = lists.ID{Kind: lists.KindToken, Value: fmt.Sprintf("token-%040x", i)}
		case 2:
			id = lists.ID{Kind: lists.KindAPIKey, Name: "X-API-KEY", Value: fmt.Sprintf("key-%d", i)}
		case 3:
			id = lists.ID{Kind: lists.KindUsername, Value: fmt.Sprintf("user%d@example.com", i)}
		case 4:
			id = lists.ID{Kind: lists.KindIP, Value: fmt.Sprintf("100.%d.%d.%d", 64+i>>16, i>>8&255, i&255)}
		}
		b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}, Created: time.Now()})
	}
	return b.Snapshot(1)
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
