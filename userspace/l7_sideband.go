package userspace

import (
	"context"
	"errors"
	"time"

	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/durable"
	"github.com/portcullis/portcullis/userspace/shim/sideband"
)

// SidebandConfig is ASE's sideband: POST /ase/request and /ase/response.
type SidebandConfig struct{ GatewayConfig }

func (c SidebandConfig) open(_ context.Context, n *node) (*opened, error) {
	return c.listenFor(n, "sideband", sideband.New(sideband.Options{
		Shim: n.shim, Valid: n.tokens.Valid, Logger: n.limited,
		Authenticate: func() bool { return n.Snapshot().Settings().SidebandAuthentication },
	}))
}

// keepTokens lets the control API change the tokens.
type keepTokens struct {
	tokens *sideband.Tokens
	now    func() time.Time
}

func (k keepTokens) Tokens() (all []control.SidebandToken) {
	for _, t := range k.tokens.List() {
		all = append(all, control.SidebandToken(t))
	}
	return all
}

func (k keepTokens) CreateToken() (string, error) {
	token, err := k.tokens.Create(k.now())
	return token, tokenError(err)
}

func (k keepTokens) ImportToken(token string) error {
	return tokenError(k.tokens.Import(token, k.now()))
}

func (k keepTokens) DeleteToken(token string) error { return tokenError(k.tokens.Delete(token)) }

func tokenError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sideband.ErrToken):
		return &control.Error{Code: control.CodeInvalid, Message: err.Error()}
	case errors.Is(err, sideband.ErrTokenLost):
		return &control.Error{Code: control.CodeNotFound, Message: err.Error(), Hint: "see them with: portcullis list_sideband_token"}
	case errors.Is(err, durable.ErrUnsynced):
		return &control.Error{Code: control.CodeFailed, Message: err.Error(), Hint: "see what is in force with: portcullis list_sideband_token"}
	}
	return &control.Error{Code: control.CodeFailed, Message: err.Error(), Hint: "nothing was changed"}
}
