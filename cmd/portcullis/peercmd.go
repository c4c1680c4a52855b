package main

import "fmt"

// What a node says of the peers that the original has and this version does not talk to. Scripts written for it get an
// answer, and nobody takes a stored switch for protection.
const (
	noABS     = "this version does not talk to ABS: it uploads no log and fetches no attack list, whatever the switches say"
	noCluster = "this version has no cluster: lists, APIs and tokens are each node's own"
)

func runABSInfo(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	_, err = cl.AuthMethod(c.ctx) // needs the login that status does not
	if err != nil {
		return err
	}
	st, err := cl.Status(c.ctx)
	if err != nil {
		return err
	}
	on := st.Settings
	if c.json() {
		err = writeJSON(c.out, map[string]any{"abs": on.ABS, "abs_attack": on.ABSAttack, "connected": false, "last_log_upload": nil, "last_attack_list": nil})
	} else {
		c.row("abs", enabled(on.ABS))
		c.row("abs attack", enabled(on.ABSAttack))
		c.row("connected", "no")
		c.row("last log upload", "never")
		c.row("last attack list", "never")
	}
	c.note(noABS)
	return err
}

func runClusterInfo(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if _, err = cl.AuthMethod(c.ctx); err != nil {
		return err
	}
	if c.json() {
		err = writeJSON(c.out, map[string]any{"cluster": false, "node_count": 1})
	} else {
		c.row("cluster", enabled(false))
		c.row("nodes", "1")
	}
	c.note(noCluster)
	return err
}

// row prints a name and its value as status does.
func (c *call) row(label, value string) {
	fmt.Fprintf(c.out, "%-*s : %s\n", statusLabel, label, value)
}
