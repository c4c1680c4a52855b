package main

import "fmt"

func sidebandCommands() []*command {
	token := []arg{{name: "TOKEN", help: "32 characters of a-z and 0-9"}}
	return []*command{
		{name: "create_sideband_token", group: groupSideband, flags: loginFlags, run: runCreateToken,
			short: "Make a token for a gateway to show in ASE-Token"},
		{name: "list_sideband_token", group: groupSideband, flags: viewFlags, run: runListTokens,
			short: "Show the sideband tokens", long: []string{"None at all prints: No Sideband Token"}},
		{name: "import_sideband_token", group: groupSideband, flags: loginFlags, args: token, run: runImportToken,
			short: "Add a token that another node made"},
		{name: "delete_sideband_token", group: groupSideband, flags: loginFlags, args: token, run: runDeleteToken,
			short: "Take a token out of force"},
	}
}

func runCreateToken(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	token, err := cl.CreateSidebandToken(c.ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "Sideband token %s created.\n", token) // scripts cut the token from columns 16 to 47
	return nil
}

func runListTokens(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	tokens, err := cl.SidebandTokens(c.ctx)
	switch {
	case err != nil:
		return err
	case c.json():
		return writeJSON(c.out, tokens)
	case len(tokens) == 0:
		fmt.Fprintln(c.out, "No Sideband Token")
	}
	for i, t := range tokens {
		fmt.Fprintf(c.out, "%d) token : %s, created : %s\n", i+1, t.Token, t.Created.Local().Format("2006-01-02 15:04:05"))
	}
	return nil
}

func runImportToken(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.ImportSidebandToken(c.ctx, c.arg(0)); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "Sideband token %s imported.\n", c.arg(0))
	return nil
}

func runDeleteToken(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.DeleteSidebandToken(c.ctx, c.arg(0)); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "Sideband token %s deleted.\n", c.arg(0))
	return nil
}
