// Package proxy is the inline front of the shim: a reverse proxy that has every request judged by [shim.Shim.Decide]
// before its backend sees a byte of it.
//
// HTTP/1.1 is served by this package itself, one goroutine a connection: it reads strictly (what two parsers could read in
// two ways is refused), writes anew all that frames a message, and can answer in the original's words, for which
// net/http has no room. HTTP/2, with TLS or without, is net/http's server and httputil.ReverseProxy.
//
// A request is read, judged, given to a backend of its API, and the answer carried back while it comes. Nothing is
// buffered beyond fixed buffers. Timeouts are looked after by one sweep a second, so that they cost a request nothing.
package proxy
