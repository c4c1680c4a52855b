package control

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/portcullis/portcullis/lists"
)

// Sideband keeps the tokens by which gateways show that they may ask. Errors are *Error. Safe for concurrent use.
type Sideband interface {
	Tokens() []SidebandToken
	CreateToken() (string, error)
	ImportToken(token string) error // one that is there is no error
	DeleteToken(token string) error
}

// SidebandToken is what a gateway shows in ASE-Token.
type SidebandToken struct {
	Token   string    `json:"token"`
	Created time.Time `json:"created"`
}

type wireTokens struct {
	Tokens []SidebandToken `json:"tokens" doc:"In the order they were made."`
}

type wireTokenChange struct {
	Do    string `json:"do" enum:"create,import,delete"`
	Token string `json:"token,omitempty" maxLength:"64" doc:"import, delete: 32 characters of a-z and 0-9"`
}

type tokenChangeInput struct{ Body wireTokenChange }

func (s *Server) registerSideband(login []map[string][]string) {
	huma.Register(s.api, huma.Operation{
		OperationID: "sideband_tokens", Method: http.MethodGet, Path: "/v1/sideband/tokens", Security: login, Summary: "The sideband tokens",
		Errors: []int{401, 403, 404},
	}, func(context.Context, *struct{}) (*output[wireTokens], error) {
		tokens, err := s.SidebandTokens()
		if err != nil {
			return nil, err
		}
		return &output[wireTokens]{wireTokens{notNil(tokens)}}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "sideband_token", Method: http.MethodPost, Path: "/v1/sideband/tokens", Security: login,
		Summary: "Make, import or delete a sideband token; in force and durable when it is answered",
		Errors:  []int{400, 401, 403, 404, 500}, MaxBodyBytes: 8 << 10, BodyReadTimeout: headerTimeout,
	}, func(ctx context.Context, in *tokenChangeInput) (*output[wireTokenChange], error) {
		freeRead(ctx)
		token, err := s.ChangeSidebandToken(callerOf(ctx), in.Body.Do, in.Body.Token)
		if err != nil {
			return nil, err
		}
		return &output[wireTokenChange]{wireTokenChange{Do: in.Body.Do, Token: token}}, nil
	})
}

// SidebandTokens returns the tokens, oldest first.
func (s *Server) SidebandTokens() ([]SidebandToken, error) {
	if s.sideband == nil {
		return nil, errNoSideband
	}
	return s.sideband.Tokens(), nil
}

var errNoSideband = &Error{Code: CodeNotFound, Message: "this daemon keeps no sideband tokens"}

// ChangeSidebandToken does "create", "import" or "delete", audited, and returns the token that it was about.
func (s *Server) ChangeSidebandToken(caller Caller, do, token string) (string, error) {
	if s.sideband == nil {
		return "", errNoSideband
	}
	if (do == "create") != (token == "") {
		return "", invalid("sideband token %s: %s %s", lists.Quote(token), do, map[bool]string{true: "takes none", false: "needs one"}[do == "create"])
	}
	masked := ""
	if token != "" {
		masked = s.audit.mask(lists.ID{Kind: lists.KindToken, Name: "sideband", Value: token})
	}
	err := s.recorded(caller, do+"_sideband_token", [][2]string{{"token", masked}}, func() (err error) {
		switch do {
		case "create":
			token, err = s.sideband.CreateToken()
		case "import":
			err = s.sideband.ImportToken(token)
		case "delete":
			err = s.sideband.DeleteToken(token)
		default:
			err = invalid("%s: not one of create, import, delete", lists.Quote(do))
		}
		return err
	})
	return token, err
}

// recorded writes to the audit log that something other than a batch is asked for, with what it is about (pairs without
// a value are left out), and only then has it done. That it failed is written as well.
func (s *Server) recorded(caller Caller, action string, about [][2]string, do func() error) (err error) {
	record := auditRecord{caller: caller, request: newRequestID()}
	p := record.begin()
	for _, kv := range about {
		p.addIf(kv[0], kv[1])
	}
	on := s.backend.Snapshot().Settings().Audit
	if on {
		if err := s.audit.write([]auditLine{{via: caller.Via, action: action, resources: p.add("outcome", "begun").b.String()}}); err != nil {
			return unaudited(err)
		}
	}
	err = &Error{Code: CodeFailed, Message: "the daemon made a mistake"} // what a panic leaves
	defer func() {
		if err == nil || !on {
			return
		}
		if werr := s.audit.write([]auditLine{s.audit.failed(record, action, 1, err)}); werr != nil {
			s.log.Error("cannot audit that a change failed", "error", werr)
		}
	}()
	return do()
}

// SidebandTokens lists the tokens, oldest first.
func (c *Client) SidebandTokens(ctx context.Context) ([]SidebandToken, error) {
	var out wireTokens
	err := c.call(ctx, http.MethodGet, "/v1/sideband/tokens", nil, &out)
	return out.Tokens, err
}

// CreateSidebandToken makes a token and returns it.
func (c *Client) CreateSidebandToken(ctx context.Context) (string, error) {
	var out wireTokenChange
	err := c.call(ctx, http.MethodPost, "/v1/sideband/tokens", wireTokenChange{Do: "create"}, &out)
	return out.Token, err
}

// ImportSidebandToken adds a token that another node made.
func (c *Client) ImportSidebandToken(ctx context.Context, token string) error {
	return c.call(ctx, http.MethodPost, "/v1/sideband/tokens", wireTokenChange{Do: "import", Token: token}, nil)
}

// DeleteSidebandToken takes a token out of force.
func (c *Client) DeleteSidebandToken(ctx context.Context, token string) error {
	return c.call(ctx, http.MethodPost, "/v1/sideband/tokens", wireTokenChange{Do: "delete", Token: token}, nil)
}
