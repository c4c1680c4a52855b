package apis

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
)

// Errors of this package.
var (
	// ErrInvalid: a definition is not as it must be; the text names file, line and field.
	ErrInvalid = errors.New("bad API definition")
	// ErrNotFound: there is no API of that ID.
	ErrNotFound = errors.New("no such API")
	// ErrExists: there is one already of that ID, or of that host name and URL.
	ErrExists = errors.New("API exists already")
)

// Bounds of a definition.
const (
	MaxSize     = 256 << 10 // bytes
	maxLevels   = 6         // of url
	maxSubpaths = 32
	maxServers  = 256
	maxMethods  = 64
	maxID       = 64
)

// Parse reads a definition as ASE keeps it in a file: {"api_metadata": {...}}. The file's name gives the ID. Errors are
// [ErrInvalid]. The text is not kept.
//
// What ASE knows is read or accepted (API.Inert); what it does not know is refused, so that a slip of the pen is not
// taken for something that protects. Without enable_blocking the lists are enforced.
func Parse(file string, text []byte) (*API, error) {
	name := filepath.Base(file)
	id, isJSON := strings.CutSuffix(name, ".json")
	if !isJSON {
		return nil, fmt.Errorf("%w: %s: expected a file that ends in .json: its name is the ID of the API", ErrInvalid, show(name))
	}
	if problem := CheckID(id); problem != "" {
		return nil, fmt.Errorf("%w: %s: the ID %s %s", ErrInvalid, show(name), show(id), problem)
	}
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%w: %s: more than %d bytes", ErrInvalid, name, MaxSize)
	}
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	root, err := decode(name, text)
	if err != nil {
		return nil, err
	}
	r := &reader{decoder: decoder{file: name, text: text}}
	a := &API{ID: id, Raw: bytes.Clone(text)}
	top := r.scope("", root)
	if _, ok := top.fields["api_metadata"]; !ok && r.err == nil {
		return nil, r.bad(root.from, "api_metadata", "missing")
	}
	top.sub("api_metadata", a.read)
	top.end()
	if r.err != nil {
		return nil, r.err
	}
	a.Inert = r.inert
	return a, nil
}

// CheckID says what is wrong with the ID of an API, "" if nothing is.
func CheckID(id string) string {
	switch {
	case id == "":
		return "is empty"
	case len(id) > maxID:
		return fmt.Sprintf("has more than %d bytes", maxID)
	case strings.Contains(id, "."):
		return "has a dot in it"
	case strings.ContainsFunc(id, func(r rune) bool { return !isWord(r) }):
		return "has something else in it than letters, digits, - and _"
	}
	return ""
}

func isWord(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// read takes over what api_metadata says.
func (a *API) read(s *scope) {
	a.Protocol = strings.ToLower(s.needed("protocol", isProtocol))
	a.URL = s.needed("url", isURL)
	a.Hostname = strings.TrimSuffix(strings.ToLower(s.needed("hostname", isHostname)), ".")
	a.EnableBlocking = s.flag("enable_blocking", true)

	a.Cookie = s.checked("cookie", isToken)
	a.APIKeyHeader = s.checked("apikey_header", isToken)
	a.APIKeyQuery = s.checked("apikey_qs", isPlain)
	a.UsernameHeader = s.checked("username_header", isToken)
	a.OAuth2Token = s.flag("oauth2_access_token", false)
	a.TokenMandatory = s.flag("is_token_mandatory", false)
	s.sub("jwt", a.JWT.read)

	s.sub("api_pattern_enforcement", a.Pattern.read)
	s.sub("decoy_config", a.Decoy.read)

	s.sub("api_mapping", func(s *scope) { a.InternalURL = s.checked("internal_url", isPath) })
	s.scopes("servers", maxServers, func(s *scope) { a.Servers = append(a.Servers, readServer(s)) })
	a.ServerTLS = s.flag("server_ssl", false)
	a.Health.Enabled = s.flag("health_check", false)
	a.Health.Interval = s.number("health_check_interval", 1, 24*3600)
	a.Health.Retries = s.number("health_retry_count", 1, 1000)
	a.Health.URL = s.checked("health_url", isTarget)

	s.noEffect("cookie_idle_timeout", "logout_api_enabled", "cookie_persistence_enabled", "login_url", "api_memory_size")
	s.sub("flow_control", func(s *scope) {
		s.noEffect("client_spike_threshold", "server_connection_queueing", "bytes_in_threshold", "bytes_out_threshold")
	})
}

func (j *JWT) read(s *scope) {
	where, name, _ := strings.Cut(s.checked("location", isLocation), ":")
	switch where = strings.ToLower(where); where {
	case "h":
		j.Location = where + ":" + strings.ToLower(name)
	case "qs":
		j.Location = where + ":" + name // parameters are told apart by case
	}
	j.Username = s.checked("username", isPlain)
	j.ClientID = s.checked("clientid", isPlain)
	j.JWKSURL = s.checked("jwks_url", isKeysURL)
	j.KeysFile = s.checked("keys_file", isAbsolute)
	j.Issuer = s.checked("issuer", isPlain)
	j.Audience = s.checked("audience", isPlain)
	switch {
	case j.Location == "" && (j.Username != "" || j.ClientID != "" || j.JWKSURL != "" || j.KeysFile != ""):
		s.fail("location", 0, "missing, so that nobody would look for a JSON web token")
	case j.Location != "" && j.Username == "" && j.ClientID == "":
		s.fail("username", 0, "missing: which claim is it?")
	case j.JWKSURL != "" && j.KeysFile != "":
		s.fail("keys_file", 0, "both jwks_url and keys_file given: give one")
	case (j.Issuer != "" || j.Audience != "") && j.JWKSURL == "" && j.KeysFile == "":
		s.fail("jwks_url", 0, "missing: issuer and audience say nothing in a token that no key verifies; give jwks_url or keys_file")
	}
}

func (p *Pattern) read(s *scope) {
	p.Protocol = strings.ToLower(s.checked("protocol_allowed", isProtocol))
	p.Methods = s.texts("methods_allowed", maxMethods, isToken)
	for i, m := range p.Methods {
		p.Methods[i] = strings.ToUpper(m)
	}
	p.ContentType = s.checked("content_type_allowed", isMediaType)
	p.Answer = Answer{Status: s.number("error_code", 200, 599), Reason: s.checked("error_def", isPlain)}
	p.Answer.Body, _ = s.text("error_message_body")
	s.sub("http_redirect", func(s *scope) {
		to := Answer{Status: s.number("response_code", 301, 308), Reason: s.checked("response_def", isPlain), Location: s.checked("https_url", isHTTPS)}
		switch {
		case to.Location == "" && to.Status != 0:
			s.fail("https_url", 0, "missing: where is a client sent to?")
		case to.Location != "" && to.Status == 0:
			to.Status = http.StatusMovedPermanently
		}
		if to.Location != "" {
			p.Redirect = &to
		}
	})
}

func (d *Decoy) read(s *scope) {
	d.Enabled = s.flag("decoy_enabled", false)
	d.Answer = Answer{Status: s.number("response_code", 200, 599), Reason: s.checked("response_def", isPlain)}
	d.Answer.Body, _ = s.text("response_message")
	d.Subpaths = s.texts("decoy_subpaths", maxSubpaths, isSubpath)
	slices.Sort(d.Subpaths)
	d.Subpaths = slices.Compact(d.Subpaths)
}

func readServer(s *scope) Server {
	server := Server{
		Host: strings.Trim(s.needed("host", isServer), "[]"), Port: s.number("port", 1, 65535),
		SpikeThreshold: s.rate("server_spike_threshold"), ConnectionsQuota: s.number("server_connection_quota", 1, 1_000_000),
	}
	if server.Port == 0 {
		s.fail("port", 0, "missing")
	}
	return server
}

// WithBlocking returns the API with enable_blocking as given, in its JSON too, the rest of which stays as it is.
func (a *API) WithBlocking(on bool) (*API, error) {
	root, err := decode(a.ID+".json", a.Raw)
	if err != nil {
		return nil, err
	}
	word := fmt.Sprintf("%t", on)
	var text []byte
	for _, f := range root.fields {
		if f.name != "api_metadata" {
			continue
		}
		i := slices.IndexFunc(f.fields, func(f field) bool { return f.name == "enable_blocking" })
		if i >= 0 {
			old := f.fields[i]
			text = slices.Concat(a.Raw[:old.from], []byte(word), a.Raw[old.to:])
		} else {
			text = slices.Concat(a.Raw[:f.from+1], []byte(`"enable_blocking": `+word+", "), a.Raw[f.from+1:])
		}
	}
	return Parse(a.ID+".json", text)
}
