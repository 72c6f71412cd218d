package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// formats of --output.
var formats = []string{"table", "json", "ndjson", "markdown"}

// list prints items in the wanted format; row gives the cells of one under head.
// An item is printed in JSON as encoding/json does.
func list[T any](c *cli, head []string, items []T, row func(T) []string) error {
	switch c.format {
	case "json":
		if items == nil {
			items = []T{}
		}
		return c.printJSON(items, true)
	case "ndjson":
		for _, item := range items {
			if err := c.printJSON(item, false); err != nil {
				return err
			}
		}
		return nil
	case "markdown":
		fmt.Fprintf(c.out, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat(" --- |", len(head)))
		for _, item := range items {
			fmt.Fprintf(c.out, "| %s |\n", strings.ReplaceAll(strings.Join(row(item), " | "), "\n", " "))
		}
		return nil
	}
	tab := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, strings.Join(head, "\t"))
	for _, item := range items {
		fmt.Fprintln(tab, strings.Join(row(item), "\t"))
	}
	return tab.Flush()
}

// printJSON prints a value, or JSON that is already made, over several lines or on one.
func (c *cli) printJSON(value any, indent bool) error {
	raw, made := value.([]byte)
	if !made {
		var err error
		if raw, err = json.Marshal(value); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	err := json.Compact(&out, raw) // protojson varies its white space on purpose
	if indent && err == nil {
		compact := out.Bytes()
		out = bytes.Buffer{}
		err = json.Indent(&out, compact, "", "  ")
	}
	if err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = c.out.Write(out.Bytes())
	return err
}

// fit cuts a line to the width of the terminal, where stdout is one.
func (c *cli) fit(line string) string {
	f, ok := c.out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return line
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if runes := []rune(line); err == nil && len(runes) > width && width > 1 {
		return string(runes[:width-1]) + "…"
	}
	return line
}
