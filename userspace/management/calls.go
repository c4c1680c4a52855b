package management

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

func (s *Server) register(mux *http.ServeMux, version string) {
	for pattern, answer := range map[string]func(*call) (any, error){
		"GET /api":                      getAPI,
		"POST /api":                     changeAPI(control.AddAPI),
		"PUT /api":                      changeAPI(control.UpdateAPI),
		"DELETE /api":                   changeAPI(control.DeleteAPI),
		"GET /firewall":                 getSwitch(func(s lists.Settings) bool { return s.Firewall }),
		"POST /firewall":                setSwitch("firewall", "Firewall is now %s"),
		"GET /sideband/authentication":  getSwitch(func(s lists.Settings) bool { return s.SidebandAuthentication }),
		"POST /sideband/authentication": setSwitch("sideband_authentication", "Sideband authentication is successfully %s"),
		"GET /sideband/token":           getTokens,
		"POST /sideband/token":          createToken,
		"PUT /sideband/token":           changeToken("import", "token_imported"),
		"DELETE /sideband/token":        changeToken("delete", "token_deleted"),
		"GET /firewall/whitelist":       getWhitelist,
		"POST /firewall/whitelist":      addEntry(lists.Whitelist),
		"DELETE /firewall/whitelist":    deleteEntry(lists.Whitelist),
		"GET /firewall/blacklist":       getBlacklist,
		"POST /firewall/blacklist":      addEntry(lists.Blacklist),
		"DELETE /firewall/blacklist":    deleteEntry(lists.Blacklist),
		"GET /cluster":                  s.getCluster,
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.Handle(method+" "+version+path, s.loggedIn(answer))
	}
}

// apiRow is one API of the list.
type apiRow struct {
	ID     string `json:"api_id"`
	Status string `json:"status"`
}

// getAPI lists the APIs, or with api_id returns the definition of one as it was given.
func getAPI(c *call) (any, error) {
	if id := c.query("api_id"); id != "" {
		a, err := c.API(id)
		if err != nil {
			return nil, err
		}
		return json.RawMessage(a.Definition), nil
	}
	all, err := c.APIs()
	if err != nil {
		return nil, err
	}
	rows := []apiRow{}
	for _, a := range all {
		state := "loaded"
		if a.Problem != "" {
			state = "unloaded"
		}
		rows = append(rows, apiRow{a.ID, state})
	}
	return map[string][]apiRow{"api": rows}, nil
}

func changeAPI(how control.DefinitionChange) func(*call) (any, error) {
	done := map[control.DefinitionChange]string{control.AddAPI: "added", control.UpdateAPI: "updated", control.DeleteAPI: "deleted"}[how]
	return func(c *call) (any, error) {
		id := c.query("api_id")
		if id == "" {
			return nil, invalid("which API? Add ?api_id=ID")
		}
		if err := c.ChangeAPI(how, id+".json", string(c.body)); err != nil {
			return nil, err
		}
		return success("api %s %s", id, done), nil
	}
}

func getSwitch(on func(lists.Settings) bool) func(*call) (any, error) {
	return func(c *call) (any, error) {
		if on(c.Snapshot().Settings()) {
			return status{"enabled", "Ok"}, nil
		}
		return status{"disabled", "Ok"}, nil
	}
}

func setSwitch(name, form string) func(*call) (any, error) {
	return func(c *call) (any, error) {
		to, known := map[string]string{"enable": "enabled", "disable": "disabled"}[c.query("status")]
		if !known {
			return nil, invalid("status %s: expected ?status=enable or ?status=disable", lists.Quote(c.query("status")))
		}
		if _, err := c.apply(control.Operation{Op: "set", Setting: name, To: to}); err != nil {
			return nil, err
		}
		return success(form, to), nil
	}
}

// apply makes one change; the query may accept risks.
func (c *call) apply(op control.Operation) (control.Reply, error) {
	var risks []string
	if text := c.query("accept_risk"); text != "" {
		risks = strings.Split(text, ",")
	}
	return c.Apply(c.r.Context(), []control.Operation{op}, risks...)
}

func getTokens(c *call) (any, error) {
	all, err := c.SidebandTokens()
	if err != nil {
		return nil, err
	}
	return map[string][]control.SidebandToken{"tokens": append([]control.SidebandToken{}, all...)}, nil
}

// tokenStatus is what a change of a token answers.
type tokenStatus struct {
	Status string `json:"status"`
	Token  string `json:"token"`
}

func createToken(c *call) (any, error) {
	token, err := c.ChangeSidebandToken("create", "")
	return tokenStatus{"token_created", token}, err
}

func changeToken(do, done string) func(*call) (any, error) {
	return func(c *call) (any, error) {
		var in struct {
			Token string `json:"token"`
		}
		if err := c.read(&in); err != nil {
			return nil, err
		}
		_, err := c.ChangeSidebandToken(do, in.Token)
		return tokenStatus{done, in.Token}, err
	}
}

// node is one of a cluster.
type node struct {
	Host    string `json:"host"`
	Version string `json:"version"`
	Status  string `json:"status"`
}

// getCluster shows the one node there is.
func (s *Server) getCluster(c *call) (any, error) {
	return map[string]any{
		"status": "disabled", "node_count": 1, "nodes": []node{{Host: s.options.Node, Version: c.Status().Version, Status: "active"}},
	}, nil
}

// entry is one identifier on a list.
type entry struct {
	Type    string `json:"type"`
	Name    string `json:"name,omitempty"`
	Value   string `json:"value"`
	For     int64  `json:"for,omitempty"` // seconds that it lives; ours, as reason and comment are
	Reason  string `json:"reason,omitempty"`
	Comment string `json:"comment,omitempty"`
}

// sections are the parts of the blacklist with their tags, in the order of view_blacklist.
var sections = []struct {
	key, tag string
	source   lists.Source
}{
	{"manual_blacklist", "manual", lists.Manual},
	{"abs_generated_blacklist", "abs_generated", lists.ABS},
	{"realtime_decoy_blacklist", "decoy", lists.Decoy},
	{"realtime_protocol_blacklist", "invalid_protocol", lists.Protocol},
	{"realtime_method_blacklist", "invalid_method", lists.Method},
	{"realtime_content_type_blacklist", "invalid_content_type", lists.ContentType},
	{"realtime_missing_token_blacklist", "missing_token", lists.MissingToken},
}

// tagged are the sources that ?tag= names; all without it.
func (c *call) tagged() ([]lists.Source, error) {
	tag := c.query("tag")
	if tag == "" || tag == "all" {
		return lists.Sources(), nil
	}
	source, err := lists.ParseSource(tag)
	if err != nil {
		return nil, invalid("tag %s: expected all, manual, abs_detected, decoy, invalid_protocol, invalid_method, invalid_content_type or missing_token", lists.Quote(tag))
	}
	return []lists.Source{source}, nil
}
