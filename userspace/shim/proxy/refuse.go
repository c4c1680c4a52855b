package proxy

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/portcullis/portcullis/userspace/apis"
)

// Answers of this package's own. The first is the original's.
var (
	answerMalformed   = apis.Answer{Status: http.StatusBadRequest, Reason: "Bad Request", Body: "Error: Malformed Request"}
	answerTooLarge    = apis.Answer{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "Request Header Fields Too Large", Body: "Error: Request Header Fields Too Large"}
	answerExpectation = apis.Answer{Status: http.StatusExpectationFailed, Reason: "Expectation Failed", Body: "Error: Unknown Expectation"}
	answerTimeout     = apis.Answer{Status: http.StatusRequestTimeout, Reason: "Request Timeout", Body: "Error: Request Timeout"}
	answerNoServer    = apis.Answer{Status: http.StatusServiceUnavailable, Reason: "Service Unavailable", Body: "Error: No Server Configured"}
	answerDown        = apis.Answer{Status: http.StatusServiceUnavailable, Reason: "Service Unavailable", Body: "Error: No Server Available"}
	answerFull        = apis.Answer{Status: http.StatusServiceUnavailable, Reason: "Service Unavailable", Body: "Error: Server Quota Exceeded"}
	answerBadGateway  = apis.Answer{Status: http.StatusBadGateway, Reason: "Bad Gateway", Body: "Error: Bad Gateway"}
	answerGateTimeout = apis.Answer{Status: http.StatusGatewayTimeout, Reason: "Gateway Timeout", Body: "Error: Gateway Timeout"}
)

// answer sends an answer of ours; last: the connection ends with it. It returns whether the connection goes on.
func (c *conn) answer(w *work, a apis.Answer, last bool) (keep bool) {
	last = last || c.p.draining.Load()
	w.out = appendAnswer(w.out[:0], a, w.method == http.MethodHead, last, w.http10)
	w.entry.status, w.entry.bytes = statusOf(a), int64(len(a.Body))
	_ = c.Conn.SetWriteDeadline(time.Now().Add(lingerFor))
	_, err := c.Conn.Write(w.out)
	if err != nil {
		return false
	}
	if last {
		c.lingering = true
		return false
	}
	_ = c.Conn.SetWriteDeadline(time.Time{})
	return true
}

// statusOf is the status to send: a definition may hold anything.
func statusOf(a apis.Answer) int {
	if a.Status < 200 || a.Status > 999 {
		return http.StatusForbidden
	}
	return a.Status
}

// appendAnswer writes an answer as it goes over the wire.
func appendAnswer(out []byte, a apis.Answer, bare, last, http10 bool) []byte {
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(statusOf(a)), 10)
	out = append(append(append(out, ' '), oneLine(cmp.Or(a.Reason, http.StatusText(statusOf(a))))...), "\r\n"...)
	out = append(out, "Date: "...)
	out = time.Now().UTC().AppendFormat(out, http.TimeFormat)
	out = append(out, "\r\n"...)
	if a.Location != "" {
		out = appendField(out, "Location", oneLine(a.Location))
	}
	if a.Body != "" {
		out = appendField(out, "Content-Type", contentType(a.Body))
	}
	noBody := statusOf(a) == http.StatusNoContent || statusOf(a) == http.StatusNotModified
	if !noBody {
		out = appendLength(out, int64(len(a.Body)))
	}
	if last {
		out = append(out, "Connection: close\r\n"...)
	} else if http10 {
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	if !bare && !noBody {
		out = append(out, a.Body...)
	}
	return out
}

func appendLength(out []byte, n int64) []byte {
	out = append(out, "Content-Length: "...)
	out = strconv.AppendInt(out, n, 10)
	return append(out, "\r\n"...)
}

// oneLine makes of outside text what fits a header line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

// contentType of a definition's answer, which says none.
func contentType(body string) string {
	switch body[0] {
	case '{', '[':
		return "application/json"
	case '<':
		return "text/html; charset=utf-8"
	}
	return "text/plain; charset=utf-8"
}
