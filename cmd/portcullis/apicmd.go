package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/portcullis/portcullis/userspace/control"
)

// maxDefinition is the most that is read of a definition: the daemon refuses less.
const maxDefinition = 1 << 20

// noAPI is said where the last API is gone: nothing else would tell before the site is down.
const noAPI = "there is no API: every HTTP request that is judged is answered with 503 until add_api"

func apiCommands() []*command {
	file := []arg{{name: "FILE", file: true, help: "an API JSON of ASE; its name without .json is the ID of the API"}}
	id := []arg{{name: "ID", help: "the ID of an API"}}
	return []*command{
		{name: "add_api", group: groupAPIs, args: file, flags: viewFlags, run: func(c *call) error { return c.changeAPI(control.AddAPI) },
			short: "Add an API",
			long: []string{"In force, and safe from a crash, when the command returns. An unknown field is refused; fields of ASE that have no effect here are " +
				"named on standard error. Without enable_blocking the lists are enforced for the API."}},
		{name: "update_api", group: groupAPIs, args: file, flags: viewFlags, run: func(c *call) error { return c.changeAPI(control.UpdateAPI) },
			short: "Replace the definition of an API", long: []string{"The file's name says which. Requests see the old definition or the new one, never a mix."}},
		{name: "delete_api", group: groupAPIs, args: id, flags: viewFlags, run: func(c *call) error { return c.changeAPI(control.DeleteAPI) },
			short: "Delete an API", long: []string{"Its requests are then those of the API with the next shorter URL, or of none and answered with 503."}},
		{name: "list_api", group: groupAPIs, flags: viewFlags, run: runListAPI, short: "Show the APIs: ID, protocol and decoy"},
		{name: "api_info", group: groupAPIs, args: id, flags: viewFlags, run: runAPIInfo,
			short: "Print the definition of an API", long: []string{"As it was given; which fields have no effect here is said on standard error."}},
		{name: "api_count", group: groupAPIs, flags: viewFlags, run: runAPICount, short: "Print how many APIs there are"},
		{name: "enable_blocking", group: groupAPIs, args: id, flags: viewFlags, run: func(c *call) error { return c.setBlocking(true) },
			short: "Enforce the lists for requests of an API"},
		{name: "disable_blocking", group: groupAPIs, args: id, flags: viewFlags, run: func(c *call) error { return c.setBlocking(false) },
			short: "Block nobody's requests of an API", long: []string{"Packets of a blacklisted address are dropped in the kernel all the same, unless ip_enforcement is l7."}},
	}
}

// changeAPI adds or updates the API of a file, or deletes one.
func (c *call) changeAPI(how control.DefinitionChange) error {
	file, text := c.arg(0), ""
	if how == control.DeleteAPI {
		file += ".json"
	} else {
		if !strings.HasSuffix(file, ".json") {
			return &usageError{oneLine(fmt.Sprintf("%s: expected a file that ends in .json: its name is the ID of the API", file)), string(how) + " " + filepath.Base(file) + ".json"}
		}
		var err error
		if text, err = readDefinition(file); err != nil {
			return err
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	a, notes, err := cl.ChangeAPI(c.ctx, how, file, text)
	if err != nil {
		return err
	}
	done := map[control.DefinitionChange]string{control.AddAPI: "added", control.UpdateAPI: "updated", control.DeleteAPI: "deleted"}[how]
	if c.json() {
		err = writeJSON(c.out, map[string]any{"api": a.ID, "outcome": done, "inert": a.Inert})
	} else {
		fmt.Fprintf(c.out, "api %s %s successfully\n", a.ID, done)
	}
	for _, n := range notes {
		c.note(n)
	}
	if err == nil && how == control.DeleteAPI {
		if left, err := cl.APIs(c.ctx); err == nil && len(left) == 0 {
			c.note(noAPI)
		}
	}
	return err
}

func readDefinition(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", &usageError{"read API definition: " + err.Error(), "name a file that you may read"}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDefinition))
	if err != nil {
		return "", fmt.Errorf("read API definition: %w", err)
	}
	return string(text), nil
}

func (c *call) allAPIs() ([]control.API, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	return cl.APIs(c.ctx)
}

func runListAPI(c *call) error {
	all, err := c.allAPIs()
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, all)
	}
	if len(all) == 0 {
		c.note(noAPI)
	}
	for _, a := range all {
		if a.Problem != "" {
			fmt.Fprintf(c.out, "%s ( not loaded )\n", oneLine(a.ID))
			c.warn(a.Problem)
			continue
		}
		fmt.Fprintf(c.out, "%s ( loaded ), %s", a.ID, a.Protocol)
		if a.Decoy != "" {
			fmt.Fprintf(c.out, ", decoy: %s", a.Decoy)
		}
		fmt.Fprintln(c.out)
	}
	return nil
}

func runAPIInfo(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	a, err := cl.API(c.ctx, c.arg(0))
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, map[string]any{"id": a.ID, "definition": json.RawMessage(a.Definition), "inert": a.Inert, "enable_blocking": a.EnableBlocking})
	}
	fmt.Fprintln(c.out, strings.TrimRight(a.Definition, "\n"))
	if len(a.Inert) > 0 {
		c.note("without effect here: " + strings.Join(a.Inert, ", "))
	}
	return nil
}

func runAPICount(c *call) error {
	all, err := c.allAPIs()
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, map[string]int{"api_count": len(all)})
	}
	fmt.Fprintln(c.out, len(all))
	return nil
}

func (c *call) setBlocking(on bool) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	a, err := cl.SetBlocking(c.ctx, c.arg(0), on)
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, map[string]any{"api": a.ID, "enable_blocking": a.EnableBlocking})
	}
	fmt.Fprintf(c.out, "Blocking is now %s for api %s\n", enabled(on), a.ID)
	return nil
}
