package apis

import "encoding/json"

// API is one definition, as its JSON says it with defaults filled in. Immutable once it is in a [Set].
type API struct {
	ID       string // the file's name without ".json": no dot in it
	Protocol string // "http", "https", "ws", "wss"
	Hostname string // lower case, no port; "*": any
	URL      string // the path that the API's begin with, "/": all; no slash at its end otherwise

	// Identifiers: where clients are looked for, beside where they always are.
	Cookie         string // name of the session cookie, "": none
	APIKeyHeader   string
	APIKeyQuery    string
	UsernameHeader string
	JWT            JWT
	OAuth2Token    bool // oauth2_access_token: clients of this API bear tokens
	TokenMandatory bool // is_token_mandatory: a request without a token is an attack

	// EnableBlocking: the lists are enforced for requests to this API.
	EnableBlocking bool

	Pattern Pattern
	Decoy   Decoy

	// Where requests go (inline).
	InternalURL string // replaces URL at the front of the path, "": the path stays
	Servers     []Server
	ServerTLS   bool
	Health      Health

	// Raw is the definition as it was given, Inert the fields in it that are accepted and have no effect here.
	Raw   json.RawMessage
	Inert []string
}

// JWT says where a username is found in a JSON web token, and by which keys it is verified.
type JWT struct {
	Location string // "h:authorization:bearer", "h:<header>", "qs:<parameter>"; "": nowhere
	Username string // claim
	ClientID string // claim
	JWKSURL  string // keys that verify; "" and no KeysFile: unverified, so it can block but not whitelist
	KeysFile string // PEM public keys or a JWKS
	Issuer   string // iss of a verified token, "": any
	Audience string // one of aud of a verified token, "": any
}

// Pattern is api_pattern_enforcement. A zero field is not enforced.
type Pattern struct {
	Protocol    string   // protocol_allowed
	Redirect    *Answer  // http_redirect: the answer to plain HTTP where https is asked for, instead of Answer
	Methods     []string // methods_allowed
	ContentType string   // content_type_allowed
	Answer      Answer   // error_code, error_def, error_message_body
}

// Decoy is decoy_config: paths that no honest client has a reason to touch.
type Decoy struct {
	Enabled  bool
	Subpaths []string // under URL; none: the whole API is a decoy (out of context)
	Answer   Answer   // response_code, response_def, response_message
}

// Answer is what is sent to a client in the place of the backend's.
type Answer struct {
	Status   int
	Reason   string // reason phrase
	Body     string
	Location string // of a redirect
}

// Server is a backend.
type Server struct {
	Host             string
	Port             int
	SpikeThreshold   int // server_spike_threshold: new connections a second, 0: no bound
	ConnectionsQuota int // server_connection_quota: connections at once, 0: no bound
}

// Health is health_check*: how a backend is found to be alive.
type Health struct {
	Enabled  bool
	Interval int // seconds
	Retries  int // failures in a row before a server is out
	URL      string
}
