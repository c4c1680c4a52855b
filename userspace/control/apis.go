package control

import (
	"context"
	"net/http"
	"net/url"
	"path"

	"github.com/danielgtaylor/huma/v2"
)

// API is an API definition, and what the node makes of it.
type API struct {
	ID             string   `json:"id"`
	Protocol       string   `json:"protocol,omitempty"`
	Hostname       string   `json:"hostname,omitempty"`
	URL            string   `json:"url,omitempty"`
	Decoy          string   `json:"decoy,omitempty" enum:"in-context,out-context" doc:"Absent: it has no decoy."`
	EnableBlocking bool     `json:"enable_blocking" doc:"The lists are enforced for its requests."`
	Inert          []string `json:"inert" doc:"Fields of the definition that have no effect here."`
	Problem        string   `json:"problem,omitempty" doc:"Why the definition could not be read: the API is not served."`
	Definition     string   `json:"definition,omitempty" doc:"The JSON as it was given; not in a list of APIs."`
}

// Definitions are the API definitions of a node. Its methods are called from many goroutines at once; errors are
// *Error. A change is durable and in force when its method returns, and notes are for the admin.
type Definitions interface {
	// List returns all, by ID, without Definition.
	List() []API
	Get(id string) (API, error)
	// Change adds or replaces (update) the definition of a file, whose name gives the ID; delete has no text.
	Change(how DefinitionChange, file, text string) (a API, notes []string, err error)
	SetBlocking(id string, on bool) (API, error)
}

// DefinitionChange says what becomes of a definition.
type DefinitionChange string

const (
	AddAPI    DefinitionChange = "add_api"
	UpdateAPI DefinitionChange = "update_api"
	DeleteAPI DefinitionChange = "delete_api"
)

type wireDefinition struct {
	File       string `json:"file" maxLength:"255" doc:"Its name without .json is the ID of the API."`
	Definition string `json:"definition" doc:"The JSON of ASE, as text: errors name its lines."`
}

type wireAPIs struct {
	APIs []API `json:"apis"`
}

type wireAPIReply struct {
	API   API      `json:"api"`
	Notes []string `json:"notes" doc:"What the caller should be told."`
}

type wireBlocking struct {
	Enabled bool `json:"enabled"`
}

type (
	definitionInput struct{ Body wireDefinition }
	replaceInput    struct {
		ID   string `path:"id"`
		Body wireDefinition
	}
	apiInput struct {
		ID string `path:"id"`
	}
	blockingInput struct {
		ID   string `path:"id"`
		Body wireBlocking
	}
)

func (s *Server) registerAPIs(login []map[string][]string) {
	operation := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Security: login,
			Errors: []int{400, 401, 403, 404, 500}, MaxBodyBytes: bigBody, BodyReadTimeout: headerTimeout}
	}
	huma.Register(s.api, operation("list_api", http.MethodGet, "/v1/apis", "API definitions"),
		func(context.Context, *struct{}) (*output[wireAPIs], error) {
			if s.apis == nil {
				return nil, errNoAPIs
			}
			return &output[wireAPIs]{wireAPIs{notNil(s.apis.List())}}, nil
		})
	huma.Register(s.api, operation("api_info", http.MethodGet, "/v1/apis/{id}", "One API definition"),
		func(_ context.Context, in *apiInput) (*output[API], error) {
			if s.apis == nil {
				return nil, errNoAPIs
			}
			a, err := s.apis.Get(in.ID)
			if err != nil {
				return nil, err
			}
			return &output[API]{a}, nil
		})
	huma.Register(s.api, operation(string(AddAPI), http.MethodPost, "/v1/apis", "Add an API"),
		func(ctx context.Context, in *definitionInput) (*output[wireAPIReply], error) {
			return s.changeAPI(ctx, AddAPI, in.Body.File, in.Body.Definition)
		})
	huma.Register(s.api, operation(string(UpdateAPI), http.MethodPut, "/v1/apis/{id}", "Replace the definition of an API"),
		func(ctx context.Context, in *replaceInput) (*output[wireAPIReply], error) {
			if in.Body.File != in.ID+".json" {
				return nil, invalid("file is not named after the API: expected ID.json")
			}
			return s.changeAPI(ctx, UpdateAPI, in.Body.File, in.Body.Definition)
		})
	huma.Register(s.api, operation(string(DeleteAPI), http.MethodDelete, "/v1/apis/{id}", "Delete an API"),
		func(ctx context.Context, in *apiInput) (*output[wireAPIReply], error) {
			return s.changeAPI(ctx, DeleteAPI, in.ID+".json", "")
		})
	huma.Register(s.api, operation("blocking", http.MethodPut, "/v1/apis/{id}/blocking", "Enforce the lists for an API, or not"),
		func(ctx context.Context, in *blockingInput) (*output[wireAPIReply], error) {
			action := map[bool]string{true: "enable_blocking", false: "disable_blocking"}[in.Body.Enabled]
			return s.apiReply(ctx, action, in.ID, func() (API, []string, error) {
				a, err := s.apis.SetBlocking(in.ID, in.Body.Enabled)
				return a, nil, err
			})
		})
}

var errNoAPIs = &Error{Code: CodeFailed, Message: "this daemon has no API definitions"}

func (s *Server) changeAPI(ctx context.Context, how DefinitionChange, file, text string) (*output[wireAPIReply], error) {
	freeRead(ctx)
	id, _ := cutJSON(file)
	return s.apiReply(ctx, string(how), id, func() (API, []string, error) { return s.apis.Change(how, file, text) })
}

// cutJSON is the ID that a file's name gives.
func cutJSON(file string) (id string, ok bool) {
	base := path.Base(file)
	ext := path.Ext(base)
	return base[:len(base)-len(ext)], ext == ".json"
}

func (s *Server) apiReply(ctx context.Context, action, id string, change func() (API, []string, error)) (*output[wireAPIReply], error) {
	if s.apis == nil {
		return nil, errNoAPIs
	}
	var reply wireAPIReply
	err := s.recorded(callerOf(ctx), action, [][2]string{{"api", id}}, func() (err error) {
		reply.API, reply.Notes, err = change()
		return err
	})
	if err != nil {
		return nil, err
	}
	reply.Notes, reply.API.Inert = notNil(reply.Notes), notNil(reply.API.Inert)
	return &output[wireAPIReply]{reply}, nil
}

// APIs lists the API definitions, by ID, without their text.
func (c *Client) APIs(ctx context.Context) ([]API, error) {
	var out wireAPIs
	err := c.call(ctx, http.MethodGet, "/v1/apis", nil, &out)
	return out.APIs, err
}

// API returns one definition with its text.
func (c *Client) API(ctx context.Context, id string) (API, error) {
	var out API
	err := c.call(ctx, http.MethodGet, "/v1/apis/"+url.PathEscape(id), nil, &out)
	return out, err
}

// ChangeAPI adds, updates or deletes the definition of a file, whose name gives the ID.
func (c *Client) ChangeAPI(ctx context.Context, how DefinitionChange, file, text string) (API, []string, error) {
	method, target := http.MethodPost, "/v1/apis"
	id, ok := cutJSON(file)
	if how != AddAPI && ok { // else the daemon says what is wrong with the name
		method, target = http.MethodPut, "/v1/apis/"+url.PathEscape(id)
	}
	var in any = wireDefinition{path.Base(file), text}
	if how == DeleteAPI {
		method, in = http.MethodDelete, nil
	}
	var out wireAPIReply
	err := c.call(ctx, method, target, in, &out)
	return out.API, out.Notes, err
}

// SetBlocking has the lists enforced for an API, or not.
func (c *Client) SetBlocking(ctx context.Context, id string, on bool) (API, error) {
	var out wireAPIReply
	err := c.call(ctx, http.MethodPut, "/v1/apis/"+url.PathEscape(id)+"/blocking", wireBlocking{on}, &out)
	return out.API, err
}
