package gateways

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// strictAPI takes GET only.
const strictAPI = `{"api_metadata":{"protocol":"http","url":"/","hostname":"*","cookie":"JSESSIONID","oauth2_access_token":true,"enable_blocking":true,
"api_pattern_enforcement":{"protocol_allowed":"","http_redirect":{"response_code":"","response_def":"","https_url":""},"methods_allowed":["GET"],
"content_type_allowed":"","error_code":"405","error_def":"Method Not Allowed","error_message_body":"no"},"servers":[{"host":"127.0.0.1","port":%s}]}}`

// TestHAProxyLearns: HAProxy tells what the backend answered, so that of the credentials of an attacker the one is
// blacklisted that the backend has accepted, and not one that it refuses. Nothing is asked for before detection is on.
func TestHAProxyLearns(t *testing.T) {
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.Header.Get("X-Answer"))
		w.WriteHeader(status)
		io.WriteString(w, "backend")
	}))
	t.Cleanup(b.Close)
	r := newRigWith(t, b.Listener.Addr().String(), strictAPI, "", freeAddress(t))
	address := startHAProxy(r)
	ask := func(method, token string, answered int) answer {
		t.Helper()
		a, err := send("127.0.0.1", address, fmt.Appendf(nil, "%s /x HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Length: 0\r\nX-Answer: %d\r\nAuthorization: Bearer %s\r\n\r\n", method, answered, token))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	expect := func(method, token string, answered int, want answer) {
		t.Helper()
		if got := ask(method, token, answered); got != want {
			t.Errorf("%s with %s: got %+v, want %+v", method, token, got, want)
		}
	}
	testenv.Eventually(t, 20*time.Second, "the gateway asks", func() error {
		if a := ask("GET", "first", 200); a.status != 200 {
			return fmt.Errorf("got %+v", a)
		}
		return nil
	})
	const early, accepted, refused = "accepted-before-detection", "accepted-by-the-backend", "refused-by-the-backend!"
	backend, no, blocked := answer{200, "backend"}, answer{405, "no"}, answer{403, "Error: Unauthorized"}
	expect("GET", early, 200, backend)
	r.cli("enable_ase_detected_attack")
	expect("GET", accepted, 200, backend)
	expect("GET", refused, 401, answer{401, "backend"})
	for _, token := range []string{early, accepted, refused} {
		expect("DELETE", token, 200, no)
	}
	testenv.Eventually(t, 10*time.Second, "the accepted token is listed", func() error {
		if list := r.cli("view_blacklist", "all"); !strings.Contains(list, accepted) {
			return fmt.Errorf("the list is:\n%s", list)
		}
		return nil
	})
	expect("GET", accepted, 200, blocked)
	if list := r.cli("view_blacklist", "all"); strings.Contains(list, refused) || strings.Contains(list, early) {
		t.Errorf("a token that the backend did not accept is listed:\n%s", list)
	}
}
